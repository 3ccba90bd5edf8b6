"""The embedded backend: a model in this process, shared by all clients, batched continuously.

One thread owns the model. A request is rendered elsewhere, a long conversation apart from the
others, which need not wait for its tokens then. It waits until one of `slots` is free, joins the
running batch at the next step (decoding/continuous_batch.py) and leaves it when it is done or when
its iterator is closed. Tokens come back to the request's event loop, which turns them into text
(detokenize.py) while the model takes the next step.

    backend = EmbeddedBackend(ModelConfig(path="microworld"), slots=64, name="microworld")
    async for piece in backend.draw(draw): ...
    await backend.close()

With one seed and one conversation an output is that of the embedded sampler
(`sampling/transformers.py`), whoever shares the batch; only float rounding depends on that.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from forethought.config import ModelConfig
from forethought.decoding import self_check
from forethought.decoding.continuous_batch import ContinuousBatch, Failure, Generation, NewToken
from forethought.decoding.expanded import ExpandedBatches
from forethought.decoding.request import SamplingParams
from forethought.decoding.shared_prefix import SharedPrefixDecoder, attached
from forethought.models import loading, rendering
from forethought.models.token_bytes import token_bytes
from forethought.serving.backends.base import BackendError, Draw, Piece, RefusedDrawError
from forethought.serving.backends.detokenize import PieceWriter, Vocabulary

LONGEST_OUTPUT = 65_536
"""New tokens where neither the client nor the model's config sets a limit."""
LONG = 64 * 1024
"""Characters of a conversation from which on it is encoded among the long ones."""
FAILURES = 3
"""Failures of the model in a row after which the backend says it is unhealthy."""
CLOSED = "the server is closing"

Event = NewToken | Failure


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    generation: Generation
    before: list[int]
    """Tokens that the output has begun with."""
    prompt_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A generation and who waits for its tokens."""

    generation: Generation
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


class _Encoder:
    """A thread with a tokenizer of its own: encoding may change the settings of one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.tokenizer = tokenizer
        self.thread = ThreadPoolExecutor(1, f"forethought-encoder-{name}")


class EmbeddedBackend:
    """A `Backend`; at most `slots` outputs are in the making, the others wait in order.

    Raises: ValueError if the model cannot be loaded.
    """

    def __init__(
        self, model: ModelConfig, *, slots: int, name: str, markers: Sequence[str] = ()
    ) -> None:
        """`markers` are those of the model's thought format, whichever tokens they are."""
        if slots < 1:
            raise ValueError(f"slots: {slots}; at least one output must be in the making")
        self._name, self._slots, self._markers = name, slots, tuple(markers)
        self._template = rendering.template_variables(model)
        tokenizer = loading.load_tokenizer(model.source)
        self._decoding = copy.deepcopy(tokenizer)
        self._short = _Encoder(tokenizer, "short")
        self._long = _Encoder(copy.deepcopy(tokenizer), "long")
        self._vocabulary = Vocabulary(self._decoding)
        loaded = loading.load_runnable(model.source, dtype=model.dtype, device=model.device)
        self._context = loading.context_of(loaded)
        self._token_bytes = token_bytes(tokenizer)
        self._end_ids = loading.end_token_ids(tokenizer, loaded.generation_config)
        with torch.no_grad():
            self.slow_reason = self_check.unsupported(loaded)
            """Why this architecture is decoded slowly; `None` where it is not."""
        self._changed = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._requests: dict[Generation, _Request] = {}
        self._generating: set[Generation] = set()
        self._ended: str | None = None
        """Why nothing can be drawn any more."""
        self._failing = False
        self._worker = threading.Thread(
            target=self._work, args=(loaded,), name="forethought-model", daemon=True
        )
        self._worker.start()

    @property
    def model(self) -> str:
        return self._name

    @property
    def can_continue(self) -> bool:
        return True

    @property
    def occupied(self) -> int:
        """Outputs in the making."""
        return len(self._generating)

    @property
    def waiting(self) -> int:
        """Outputs that wait for a slot."""
        return len(self._waiting)

    async def healthy(self) -> bool:
        return self._worker.is_alive() and self._ended is None and not self._failing

    async def close(self) -> None:
        """Ends the model's thread after its step; outputs in the making fail."""
        with self._changed:
            self._ended = CLOSED
            self._changed.notify()
        await asyncio.to_thread(self._worker.join)
        for encoder in (self._short, self._long):
            encoder.thread.shutdown(wait=False, cancel_futures=True)
        loading.free_memory()

    async def draw(self, draw: Draw) -> AsyncGenerator[Piece, None]:
        loop = asyncio.get_running_loop()
        if self._ended is not None:
            raise BackendError(self._ended)
        size = len(draw.begun) + sum(len(message.content) for message in draw.messages)
        encoder = self._short if size < LONG else self._long
        prepared = await loop.run_in_executor(encoder.thread, self._prepare, encoder, draw)
        pen = PieceWriter(
            self._decoding,
            self._vocabulary,
            before=prepared.before,
            prompt_tokens=prepared.prompt_tokens,
            markers=self._markers,
        )
        request = _Request(prepared.generation, loop)
        self._enter(request)
        try:
            finished = False
            while not finished:
                event = await request.events.get()
                if isinstance(event, Failure):
                    raise BackendError(event.reason)
                pen.add(event)
                finished = event.finish_reason is not None
                # Piece by piece also where several have come: budgets are counted in tokens.
                piece = pen.take()
                if piece is not None:
                    yield piece
        finally:
            self._leave(request.generation)

    # Requests

    def _prepare(self, encoder: _Encoder, draw: Draw) -> _Prepared:
        """Raises: RefusedDrawError."""
        try:
            SamplingParams(
                temperature=draw.temperature,
                top_p=draw.top_p,
                max_new_tokens=1 if draw.max_tokens is None else draw.max_tokens,
            )
        except ValueError as error:
            raise RefusedDrawError(str(error)) from None
        prompt = self._render(encoder, draw)
        before = rendering.encode_output(encoder.tokenizer, draw.begun, self._markers)
        ids = (*prompt, *before)
        limit = LONGEST_OUTPUT if draw.max_tokens is None else draw.max_tokens
        if self._context is not None:
            limit = min(limit, self._context - len(ids))
        if limit < 1:
            raise RefusedDrawError(
                f"the conversation has {len(ids)} tokens and {self._name} takes {self._context}, "
                "the answer included; shorten it"
            )
        barred = tuple(
            tuple(rendering.encode_output(encoder.tokenizer, each, self._markers))
            for each in draw.barred
        )
        if draw.threshold is not None and len(barred[0]) > 1:
            raise RefusedDrawError(
                f"the thought marker is {len(barred[0])} tokens of this model, and a threshold is "
                "on the probability of one; serve it without --think-threshold"
            )
        seed = secrets.randbits(63) if draw.seed is None else draw.seed
        generation = Generation(
            token_ids=ids,
            limit=limit,
            temperature=draw.temperature,
            top_p=draw.top_p,
            # Clients may give any whole number.
            seed=(seed + 2**63) % 2**64 - 2**63,
            top_logprobs=draw.top_logprobs,
            barred=barred,
            threshold=draw.threshold,
        )
        return _Prepared(generation, before, len(prompt))

    def _render(self, encoder: _Encoder, draw: Draw) -> tuple[int, ...]:
        try:
            if encoder is self._long:
                self._refuse_what_is_too_long(encoder, draw)
            prompt = rendering.render(encoder.tokenizer, draw.messages, self._template)
        except ValueError as error:
            roles = ", ".join(message.role for message in draw.messages)
            raise RefusedDrawError(
                f"the model's chat template refuses a conversation of {roles}: {error.__cause__}"
            ) from None
        if not prompt:
            raise RefusedDrawError("the conversation is empty once the chat template is applied")
        return prompt

    def _refuse_what_is_too_long(self, encoder: _Encoder, draw: Draw) -> None:
        """Before the tokens are made, which takes a second for each megabyte or so."""
        if self._context is None or self._token_bytes is None:
            return
        text = rendering.render_text(encoder.tokenizer, draw.messages, self._template)
        fewest = self._token_bytes.fewest_tokens(text)
        if fewest >= self._context:
            raise RefusedDrawError(
                f"the conversation has {fewest} tokens or more and {self._name} takes "
                f"{self._context}, the answer included; shorten it"
            )

    def _enter(self, request: _Request) -> None:
        with self._changed:
            if self._ended is not None:
                raise BackendError(self._ended)
            self._requests[request.generation] = request
            self._waiting.append(request.generation)
            self._changed.notify()

    def _leave(self, generation: Generation) -> None:
        """Its slot is free from here on; the model's thread drops the row before its next step."""
        with self._changed:
            generation.cancelled = True
            self._requests.pop(generation, None)
            self._generating.discard(generation)
            if generation in self._waiting:
                self._waiting.remove(generation)
            self._changed.notify()

    # The model's thread

    def _work(self, model: PreTrainedModel) -> None:
        shared = self.slow_reason is None
        decoder = SharedPrefixDecoder if shared else ExpandedBatches
        attention = attached(model) if shared else nullcontext()
        try:
            with torch.inference_mode(), attention:
                batch = ContinuousBatch(
                    lambda: decoder(model), end_ids=self._end_ids, device=model.device
                )
                while self._admit_waiting(batch):
                    events = batch.turn()
                    # Before those who fail hear of it: they may ask.
                    self._failing = batch.failures >= FAILURES
                    self._deliver(events)
        finally:
            with self._changed:
                # From here on nobody enters.
                self._ended = reason = self._ended or "the model's thread has ended"
                left = list(self._requests)
            self._deliver([Failure(generation=generation, reason=reason) for generation in left])

    def _admit_waiting(self, batch: ContinuousBatch) -> bool:
        """Wait for something to do and admit who waits; `False` where the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._waiting or batch.busy)
            while self._waiting and len(self._generating) < self._slots:
                generation = self._waiting.popleft()
                self._generating.add(generation)
                batch.add(generation)
            return self._ended is None

    def _deliver(self, events: Iterable[Event]) -> None:
        """Hand the events to their loops, one call each."""
        per_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Request, Event]]] = {}
        with self._changed:
            for event in events:
                request = self._requests.get(event.generation)
                if request is None:
                    continue
                per_loop.setdefault(request.loop, []).append((request, event))
                if isinstance(event, Failure) or event.finish_reason is not None:
                    del self._requests[event.generation]
                    self._generating.discard(event.generation)
        for loop, pairs in per_loop.items():
            try:
                loop.call_soon_threadsafe(_put, pairs)
            except RuntimeError:
                # The loop has ended without closing its iterators.
                for request, _ in pairs:
                    self._leave(request.generation)


def _put(pairs: list[tuple[_Request, Event]]) -> None:
    for request, event in pairs:
        request.events.put_nowait(event)
