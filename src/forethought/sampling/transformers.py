"""The embedded engine: any causal model that transformers loads, on CPU or GPU.

Prompts are rendered once, prefilled once and shared by their K samples; finished samples leave,
waiting prompts enter (decoding/static_batch.py). Most architectures decode through
decoding/shared_prefix.py, the rest through decoding/expanded.py; the results mean the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from forethought.config import ModelConfig
from forethought.decoding import nucleus, self_check, static_batch
from forethought.decoding.expanded import ExpandedDecoder, has_cache
from forethought.decoding.request import SamplingParams, TokenizedRequest, tokenize
from forethought.decoding.shared_prefix import SharedPrefixDecoder, attached
from forethought.models import loading, number_types, rendering
from forethought.models.model_cache import cached
from forethought.models.shared_policy import shared_policy
from forethought.progress.under_way import listener
from forethought.types import Completion, SampledPrompt, SampleRequest, Unsampled

log = logging.getLogger(__name__)

FAST = "sampling the fast way: a prompt is computed once and shared by its samples"
SLOW = (
    "sampling the slow way, several times slower than the fast one: {reason}. Every sample has its "
    "own copy of the prompt's cache, only prompts of one length are drawn together, and none "
    "enters before all of those have ended{again}. sampling.type: vllm may know this model"
)
AGAIN = ", and without a cache the whole sequence is computed again for every token"


class TransformersSampler:
    """Samples a model; `load` reads it from a folder, the constructor takes one in memory.

    A model in memory is left as it was found after every `sample`: its attention, its mode.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        params: SamplingParams,
        rows: int,
        name: str = "in memory",
        template: Mapping[str, Any] | None = None,
        products: str = "",
    ) -> None:
        """`products` is what is said of the number type, behind how outputs are drawn."""
        self._template = template or {}
        self._products = products
        self._model: PreTrainedModel | None = model
        self._tokenizer = tokenizer
        self._params = params
        self._rows = rows
        self._name = name
        self._end_ids = loading.end_token_ids(tokenizer, model.generation_config)
        self._reason = cached(("decoder", model), lambda: _reason_against(model))
        if self._reason is not None and listener() is None:
            log.warning("%s: %s", name, self._how(model))

    def _how(self, model: PreTrainedModel) -> str:
        if self._reason is None:
            return FAST + self._products
        again = "" if has_cache(model) else AGAIN
        return SLOW.format(reason=self._reason, again=again) + self._products

    @classmethod
    def load(
        cls, model: ModelConfig, *, params: SamplingParams, rows: int, policy: bool = False
    ) -> Self:
        """Load the model; inside a model cache the run's policies share a module, and each other
        model has its own."""
        tokenizer = loading.load_tokenizer(model.source)
        if policy:
            loaded = shared_policy(model.dtype, model.device).load(model.source)
        else:
            loaded = cached(("model", model), lambda: _load(model))
        template = rendering.template_variables(model)
        return cls(
            loaded,
            tokenizer,
            params=params,
            rows=rows,
            name=model.path,
            template=template,
            products=number_types.said(model.dtype, loaded.device),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None
        loading.free_memory()

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        model = self._model
        assert model is not None, "the sampler is closed"
        context = loading.context_of(model)
        tokenized = [
            tokenize(
                request,
                self._tokenizer,
                self._params,
                name=self._name,
                context=context,
                template=self._template,
            )
            for request in requests
        ]
        accepted = [each for each in tokenized if isinstance(each, TokenizedRequest)]
        with _borrowed(model):
            outputs = iter(self._run(model, accepted))
        return iter(
            [
                each if isinstance(each, Unsampled) else self._sampled(request, each, next(outputs))
                for request, each in zip(requests, tokenized, strict=True)
            ]
        )

    def _run(
        self, model: PreTrainedModel, accepted: Sequence[TokenizedRequest]
    ) -> list[list[list[int]]]:
        settings = {
            "params": self._params,
            "end_ids": self._end_ids,
            "rows": self._rows,
            "device": model.device,
            "how": self._how(model),
        }
        try:
            if self._reason is not None:
                return static_batch.run(ExpandedDecoder(model), accepted, **settings)
            with attached(model):
                return static_batch.run(SharedPrefixDecoder(model), accepted, **settings)
        except nucleus.LogitsNotFiniteError:
            raise ValueError(
                f"model: {self._name} gave logits that are NaN or infinite, so nothing can be "
                "drawn; check the weights, or sample with model.dtype: float32"
            ) from None

    def _sampled(
        self, request: SampleRequest, tokenized: TokenizedRequest, outputs: Sequence[list[int]]
    ) -> SampledPrompt:
        return SampledPrompt(
            prompt_id=request.prompt_id,
            prompt_token_ids=tokenized.token_ids,
            completions=tuple(self._completion(ids) for ids in outputs),
        )

    def _completion(self, ids: list[int]) -> Completion:
        return Completion(
            text=rendering.decode(self._tokenizer, ids),
            token_ids=tuple(ids),
            finish_reason="stop" if ids[-1] in self._end_ids else "length",
        )


def _reason_against(model: PreTrainedModel) -> str | None:
    with _borrowed(model):
        return self_check.unsupported(model)


def _load(model: ModelConfig) -> PreTrainedModel:
    return loading.load_runnable(model.source, dtype=model.dtype, device=model.device)


@contextmanager
def _borrowed(model: PreTrainedModel) -> Iterator[None]:
    """The model in eval mode and without gradients, its mode restored afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
