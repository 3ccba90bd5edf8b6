"""A backend that writes what a test tells it, piece by piece, and keeps count of its draws.

    backend = ScriptedBackend(script("thought <R> response", cut=3, delay=0.01))
    backend = ScriptedBackend(script("no response"), script("a <R> b"))   # per draw; the last stays
    backend = ScriptedBackend(lambda draw: script(draw.messages[-1].content))

Afterwards `backend.draws` are the draws asked for, `backend.open` those not closed yet,
`backend.most` the most that were open at once, `backend.cut_short` those closed before their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from forethought.serving.backends.base import Draw, Piece, TokenLogprob
from forethought.types import FinishReason


@dataclass(frozen=True, kw_only=True)
class Script:
    """One output.

    Example: `Script(pieces=(Piece(…),), delay=0.01)`
    """

    pieces: tuple[Piece, ...]
    delay: float = 0.0
    """Seconds before each piece."""
    error: Exception | None = None
    """Raised behind the last piece."""


def script(
    text: str,
    *,
    cut: int | Sequence[str] = 4,
    finish: FinishReason | None = "stop",
    delay: float = 0.0,
    tokens: int = 1,
    prompt_tokens: int = 10,
    logprobs: bool = False,
    error: Exception | None = None,
) -> Script:
    """A text cut every `cut` characters, or as given; each piece counts `tokens`.

    The end comes as a piece of its own: no text, one token. With `finish=None` there is none.
    """
    texts = cut
    if isinstance(texts, int):
        texts = [text[at : at + texts] for at in range(0, len(text), texts)]
    assert "".join(texts) == text, "the cuts are not of this text"
    pieces = [
        Piece(
            text=one,
            tokens=tokens,
            logprobs=(token_logprob(one),) if logprobs else (),
            prompt_tokens=prompt_tokens,
            finish_reason=None,
        )
        for one in texts
    ]
    if finish is not None:
        end = Piece(
            text="",
            tokens=1 if finish == "stop" else 0,
            logprobs=(token_logprob("<end>"),) if logprobs and finish == "stop" else (),
            prompt_tokens=prompt_tokens,
            finish_reason=finish,
        )
        pieces.append(end)
    return Script(pieces=tuple(pieces), delay=delay, error=error)


def token_logprob(token: str) -> TokenLogprob:
    """A token with a rival."""
    return TokenLogprob(token=token, logprob=-0.5, top=((token, -0.5), ("rival", -1.5)))


class ScriptedBackend:
    """Satisfies `forethought.serving.backends.base.Backend`."""

    def __init__(
        self,
        *scripts: Script | Callable[[Draw], Script],
        model: str = "scripted",
        can_continue: bool = False,
    ) -> None:
        self._scripts = scripts
        self._model = model
        self._can_continue = can_continue
        self.draws: list[Draw] = []
        self.open = 0
        self.most = 0
        self.cut_short = 0
        self.well = True
        self.closed = False

    @property
    def model(self) -> str:
        return self._model

    @property
    def can_continue(self) -> bool:
        return self._can_continue

    async def draw(self, draw: Draw) -> AsyncGenerator[Piece, None]:
        assert self._can_continue or not draw.begun, "it was asked to go on and cannot"
        chosen = self._scripts[min(len(self.draws), len(self._scripts) - 1)]
        self.draws.append(draw)
        written = chosen if isinstance(chosen, Script) else chosen(draw)
        self.open += 1
        self.most = max(self.most, self.open)
        whole = False
        try:
            for piece in written.pieces:
                if written.delay:
                    await asyncio.sleep(written.delay)
                whole = whole or piece.finish_reason is not None
                yield piece
            if written.error is not None:
                raise written.error
        finally:
            self.open -= 1
            self.cut_short += not whole

    async def healthy(self) -> bool:
        return self.well

    async def close(self) -> None:
        self.closed = True
