"""The fast decoder: every model that takes its attention from transformers' interface.

The model's own modules run unchanged, with one token per row; only attention is ours. It is
registered under a name of its own, for which transformers builds no masks, and receives the
decoder's state through the model's keyword arguments, the way transformers' continuous batching
does. `unsupported` says why a model cannot be decoded so; `expanded.py` decodes those.

Shapes: see cohort.py; B is whatever the model calls its batch, Q its query tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from forethought import models
from forethought.sampling.cohort import Cohort, Form
from forethought.sampling.excerpt import excerpt, ordinary_tokens

ATTENTION = "forethought_shared_prefix"
PREFILL_TOKENS = 16384
"""Padded prompt tokens per forward pass: bounds the activations."""
TRIAL = (
    (1, 5, 2, 4, 3, 2, 5),
    (1, 5, 2, 4, 3, 3, 1),
    (9, 6, 8, 8, 7, 0, 6, 4, 4),
    (9, 6, 8, 8, 7, 0, 6, 1, 2),
)
"""Which tokens a model is tried with: two samples of each of two prompts."""
TOLERANCE = 1e-3
"""Greatest distance of logits in float32, relative to their spread."""


class _Phase(Protocol):
    def attend(self, layer: int, form: Form, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, heads, Q, D] of each to [B, Q, heads, D]."""
        ...


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    shared_prefix: _Phase,
    windows: Sequence[int | None],
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every attention layer."""
    layer = int(module.layer_idx)  # pyright: ignore[reportArgumentType]
    form = Form(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=windows[layer],
        softcap=softcap,
    )
    return shared_prefix.attend(layer, form, query, key, value), None


AttentionInterface.register(ATTENTION, attention)


class _Prefill:
    """Attention of padded prompts on themselves, storing their keys and values.

    One prompt may come in chunks: `earlier` of its tokens are stored already and are seen too.
    """

    def __init__(
        self, cohort: Cohort, start: int, lengths: Sequence[int], column: int, earlier: int = 0
    ) -> None:
        self.cohort, self.start, self.lengths = cohort, start, lengths
        self.column, self.earlier = column, earlier
        self.masks: dict[int | None, Tensor | None] = {}

    def attend(self, layer: int, form: Form, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.cohort.store_prefix(layer, self.start, self.column, key, value)
        if self.earlier:
            kept, columns = self.cohort.layers[layer], self.column + key.shape[2]
            key, value = kept.prefix_keys[:, :, :columns], kept.prefix_values[:, :, :columns]
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key = key.repeat_interleave(groups, 1)
            value = value.repeat_interleave(groups, 1)
        mask = self._mask(form.window)
        if form.softcap is None:
            output = scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, scale=form.scaling
            )
        else:
            scores = torch.matmul(query, key.transpose(2, 3)) * form.scaling
            scores = torch.tanh(scores / form.softcap) * form.softcap
            scores = scores.masked_fill(~self._visible(form.window), -torch.inf)
            output = torch.matmul(scores.softmax(-1, torch.float32).to(value.dtype), value)
        return output.transpose(1, 2).contiguous()

    def _mask(self, window: int | None) -> Tensor | None:
        """`None` where plain causal attention is meant."""
        if window is not None and window >= self.earlier + max(self.lengths):
            window = None
        if window not in self.masks:
            plain = window is None and len(set(self.lengths)) == 1 and not self.earlier
            self.masks[window] = None if plain else self._visible(window)
        return self.masks[window]

    def _visible(self, window: int | None) -> Tensor:
        """[P, 1, T, earlier + T]; padding sees itself, so that no row of a softmax is empty."""
        width = max(self.lengths)
        columns = torch.arange(self.earlier + width, device=self.cohort.device)
        distance = columns[self.earlier :, None] - columns
        seen = distance >= 0
        if window is not None:
            seen &= distance < window
        padding = torch.tensor([width - n for n in self.lengths], device=self.cohort.device)
        real = columns >= padding[:, None]
        return ((seen & real[:, None, :]) | (distance == 0))[:, None]


class _Step:
    """Attention of one new token per row, cohort after cohort."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        self.cohorts = cohorts
        self.sizes = [len(cohort) for cohort in cohorts]

    def attend(self, layer: int, form: Form, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads = key.shape[:2]
        grouped = query.reshape(rows, heads, -1, query.shape[-1])
        pieces = zip(
            self.cohorts,
            grouped.split(self.sizes),
            key.squeeze(2).split(self.sizes),
            value.squeeze(2).split(self.sizes),
            strict=True,
        )
        outputs = [cohort.attend(layer, form, q, k, v) for cohort, q, k, v in pieces]
        return torch.cat(outputs).view(rows, 1, query.shape[1], -1)


class SharedPrefixDecoder:
    """Decoder over cohorts; use it inside `attached(model)`."""

    refills = True
    equal_lengths = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.device = model.device
        self.check_every = 1 if self.device.type == "cpu" else 8
        self.windows = _windows(model.config)
        self.context = models.context_of(model)
        self.cohorts: list[Cohort] = []
        self.positions_R = torch.empty(0, dtype=torch.int64, device=self.device)

    def admit(self, prompts: Sequence[tuple[int, ...]], copies: Sequence[int]) -> Tensor:
        lengths = [len(prompt) for prompt in prompts]
        cohort = Cohort.plan(lengths, copies, self.device)
        logits = [self._prefill(cohort, prompts, start, end) for start, end in _batches(lengths)]
        self._seat(cohort)
        return torch.cat(logits)

    def admit_in_chunks(
        self, prompt: tuple[int, ...], copies: int, tokens: int
    ) -> Iterator[Tensor | None]:
        """Like `admit`, so many tokens at a time; steps may be taken between them.

        Yields `None` after every chunk but the last, whose logits, [1, V], come when the rows
        have been appended.
        """
        cohort = Cohort.plan([len(prompt)], [copies], self.device)
        begins = range(0, len(prompt), tokens)
        for begin in begins:
            ids_1T = torch.tensor([prompt[begin : begin + tokens]])
            count = ids_1T.shape[1]
            positions_1T = torch.arange(begin, begin + count)[None]
            phase = _Prefill(cohort, 0, [count], column=begin, earlier=begin)
            logits_1V = self._forward(ids_1T, positions_1T, phase)
            if begin == begins[-1]:
                self._seat(cohort)
                yield logits_1V
            else:
                yield None

    def _seat(self, cohort: Cohort) -> None:
        self.cohorts.append(cohort)
        positions = [cohort.lengths[prompt] for prompt in cohort.prompt_of_row]
        new_R = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self.positions_R = torch.cat([self.positions_R, new_R])

    def _prefill(
        self, cohort: Cohort, prompts: Sequence[tuple[int, ...]], start: int, end: int
    ) -> Tensor:
        lengths = [len(prompt) for prompt in prompts[start:end]]
        width = max(lengths)
        ids_BT = torch.zeros(end - start, width, dtype=torch.int64)
        for row, prompt in enumerate(prompts[start:end]):
            ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        padding_B1 = width - torch.tensor(lengths)[:, None]
        positions_BT = (torch.arange(width) - padding_B1).clamp_(min=0)
        phase = _Prefill(cohort, start, lengths, column=cohort.width - width)
        return self._forward(ids_BT, positions_BT, phase)

    def step(self, tokens_R: Tensor) -> Tensor:
        for cohort in self.cohorts:
            cohort.begin_step()
        positions_R = self.positions_R
        if self.context is not None:
            # Finished rows that have not left may stand at the end of the context.
            positions_R = positions_R.clamp(max=self.context - 1)
        logits_RV = self._forward(tokens_R[:, None], positions_R[:, None], _Step(self.cohorts))
        self.positions_R = self.positions_R + 1
        return logits_RV

    def keep(self, live: list[bool]) -> list[int]:
        order: list[int] = []
        start = 0
        for cohort in self.cohorts:
            size = len(cohort)
            order += [start + row for row in cohort.keep(live[start : start + size])]
            start += size
        self.cohorts = [cohort for cohort in self.cohorts if len(cohort)]
        if len(order) < len(live):
            self.positions_R = self.positions_R[
                torch.tensor(order, device=self.device, dtype=torch.int64)
            ]
        return order

    def _forward(self, ids: Tensor, positions: Tensor, phase: _Phase) -> Tensor:
        output = self.model(
            input_ids=ids.to(self.device),
            position_ids=positions.to(self.device),
            use_cache=False,
            logits_to_keep=1,
            shared_prefix=phase,
            windows=self.windows,
        )
        return output.logits[:, -1]


@contextmanager
def attached(model: PreTrainedModel, implementation: str = ATTENTION) -> Iterator[None]:
    """The model attends through `attention` inside the block."""
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def unsupported(model: PreTrainedModel) -> str | None:
    """Why the model cannot be decoded here, `None` if it can.

    The declarations of architectures do not tell everything (attention sinks, keys shared between
    layers, arguments that are not handed on), so a few tokens are decoded: by the model itself, to
    see that it runs, and by an excerpt of it in float32, to compare with its own forward pass.
    """
    if not model._supports_attention_backend:
        return "it does not take its attention from transformers' interface"
    layers = DynamicCache(config=model.config).layers
    text_config = model.config.get_text_config()
    if len(layers) != text_config.num_hidden_layers or any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers
    ):
        return "not all its layers keep keys and values of their own"
    if getattr(text_config, "attention_chunk_size", None) is not None:
        return "it attends in chunks"
    try:
        _decode_some(model, ordinary_tokens(model))
        difference = _difference(excerpt(model))
    except (TypeError, ValueError, AttributeError, RuntimeError, LookupError) as error:
        return f"a trial failed: {error}"
    if not difference < TOLERANCE:
        return f"its logits would differ by {difference:.1%} from its own forward pass"
    return None


def _decode_some(model: PreTrainedModel, tokens: Sequence[int]) -> tuple[list[list[int]], Tensor]:
    """Sequences of these tokens and the logits at their last three, [4, 3, V].

    Two prompts of two samples, then two more tokens of each.
    """
    trial = [[tokens[place % len(tokens)] for place in places] for places in TRIAL]
    prompts = [tuple(trial[0][:-2]), tuple(trial[2][:-2])]
    continuations = torch.tensor([one[-2:] for one in trial], device=model.device)
    with attached(model):
        decoder = SharedPrefixDecoder(model)
        logits = [decoder.admit(prompts, (2, 2)).repeat_interleave(2, 0)]
        logits += [decoder.step(tokens_R) for tokens_R in continuations.unbind(1)]
    return trial, torch.stack(logits, 1)


def _difference(model: PreTrainedModel) -> float:
    """Largest relative distance between these logits and those of the model's own attention."""
    size = model.get_input_embeddings().weight.shape[0]  # pyright: ignore
    trial, ours = _decode_some(model, range(size))
    differences = []
    for ids, ours_3V in zip(trial, ours, strict=True):
        # transformers' sdpa leaves out what eager computes, such as Gemma 2's soft cap.
        with attached(model, "eager"):
            given = torch.tensor([ids], device=model.device)
            theirs_3V = model(input_ids=given, use_cache=False).logits[0, -3:]
        spread = theirs_3V - theirs_3V.mean(-1, keepdim=True)
        differences.append(((ours_3V - theirs_3V).norm(dim=-1) / spread.norm(dim=-1)).max())
    return float(torch.stack(differences).max())


def _batches(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of prompts within the token budget."""
    start = 0
    for end in range(1, len(lengths) + 1):
        full = (
            end == len(lengths)
            or (end + 1 - start) * max(lengths[start : end + 1]) > PREFILL_TOKENS
        )
        if full:
            yield start, end
            start = end


def _windows(config: Any) -> list[int | None]:
    """The sliding window of every layer, as transformers' own cache reads it from the config."""
    layers = DynamicCache(config=config).layers
    return [
        layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        for layer in layers
    ]
