"""Replies from a file: for tests and for trying a recipe without sampling a model.

Each line is `{"match": "text in the last user turn", "replies": ["…"]}`. The first line whose text
occurs in the last user turn answers; an empty text matches every turn. The reply is drawn by the
sample's seed. Token ids are the policy's own: its tokenizer renders the prompt and encodes the
reply, followed by the end token. Without a policy, as for a judge, there are no token ids and
replies are given whole, since a token limit has no meaning then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from forethought.config import ModelConfig
from forethought.decoding.request import SamplingParams
from forethought.models import loading, rendering
from forethought.sampling.base import refuse_openings
from forethought.types import Completion, SampledPrompt, SampleRequest, Unsampled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptLine:
    """Example: `ScriptLine(match="capital of France", replies=("Paris.", "London."))`"""

    match: str
    replies: tuple[str, ...]


class ScriptedSampler:
    """Answers from `lines`; with a tokenizer, cut to the token limit like any sampler's output."""

    def __init__(
        self,
        lines: Sequence[ScriptLine],
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        params: SamplingParams,
        source: str,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self._template = template
        self._lines = lines
        self._tokenizer = tokenizer
        self._params = params
        self._source = source

    @classmethod
    def load(cls, path: Path, *, model: ModelConfig | None, params: SamplingParams) -> Self:
        """Raises: ValueError if the file or a line is wrong, or the tokenizer cannot be loaded."""
        tokenizer, template = None, None
        if model is not None:
            template = rendering.template_variables(model)
            tokenizer = loading.load_tokenizer(model.source)
        return cls(read_script(path), tokenizer, params=params, source=str(path), template=template)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        refuse_openings(requests, "scripted")
        return iter([self._answer(request) for request in requests])

    def _answer(self, request: SampleRequest) -> SampledPrompt | Unsampled:
        asked = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        line = next((line for line in self._lines if line.match in asked), None)
        if line is None:
            raise ValueError(
                f"{self._source}: no line matches prompt {request.prompt_id} ({asked[:80]!r}); add "
                'a last line with "match": "", which answers every prompt'
            )
        prompt_ids: tuple[int, ...] = ()
        if self._tokenizer is not None:
            try:
                prompt_ids = rendering.render(self._tokenizer, request.messages, self._template)
            except ValueError as error:
                return Unsampled(prompt_id=request.prompt_id, reason=str(error))
        return SampledPrompt(
            prompt_id=request.prompt_id,
            prompt_token_ids=prompt_ids,
            completions=tuple(
                self._completion(line.replies[_pick(seed, len(line.replies))])
                for seed in request.seeds
            ),
        )

    def _completion(self, reply: str) -> Completion:
        if self._tokenizer is None:
            return Completion(text=reply, token_ids=(), finish_reason="stop")
        encoded: list[int] = self._tokenizer.encode(reply, add_special_tokens=False)
        end = self._tokenizer.eos_token_id
        assert isinstance(end, int), "load_tokenizer refuses a tokenizer without end token"
        ids = [*encoded, end]
        limit = self._params.max_new_tokens
        if len(ids) <= limit:
            return Completion(text=reply, token_ids=tuple(ids), finish_reason="stop")
        text = rendering.decode(self._tokenizer, ids[:limit])
        return Completion(text=text, token_ids=tuple(ids[:limit]), finish_reason="length")


def read_script(path: Path) -> tuple[ScriptLine, ...]:
    """Raises: ValueError that names file, line and field."""
    if not path.is_file():
        raise ValueError(
            f"path: {path} does not exist; give the scripted engine a JSONL file of replies"
        )
    lines = tuple(
        _line(text, f"{path}, line {number}")
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if text.strip()
    )
    if not lines:
        raise ValueError(
            f'{path} is empty; write lines of {{"match": "text", "replies": ["reply"]}}'
        )
    return lines


def _line(text: str, place: str) -> ScriptLine:
    try:
        record: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(record, dict) or set(record) != {"match", "replies"}:
        given = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f'{place}: needs exactly the fields "match" and "replies", not {given}')
    match, replies = record["match"], record["replies"]
    if not isinstance(match, str):
        raise ValueError(f"{place}: match is {match!r}; it must be a string")
    if (
        not isinstance(replies, list)
        or not replies
        or not all(isinstance(reply, str) for reply in replies)
    ):
        raise ValueError(
            f"{place}: replies is {replies!r}; it must be a list of strings, not empty"
        )
    return ScriptLine(match=match, replies=tuple(replies))


def _pick(seed: int, count: int) -> int:
    """Seeds in a row spread over the replies (the high bits of a Weyl product)."""
    return (((seed + 1) * 0x9E3779B97F4A7C15) % 2**64 * count) >> 64
