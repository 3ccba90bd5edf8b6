"""vLLM as the engine: many prompts at once on GPUs, prompts shared through its prefix cache.

Prompts are rendered here and given as ids; K outputs of a prompt are K requests with seeds of
their own. The checkpoint's sampling defaults are not used, and an output ends at the tokens of
`loading.end_token_ids` and at no other: the same words mean the same as in transformers.py. The
draws differ, so equal seeds give other outputs than there. vllm_engine.py starts and ends vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self

from forethought.config import ModelConfig, VllmEngine
from forethought.decoding.request import SamplingParams, TokenizedRequest, tokenize
from forethought.models import loading, rendering
from forethought.sampling.base import refuse_barred
from forethought.sampling.vllm_bar import OutputsBar
from forethought.sampling.vllm_engine import find_weights, reason
from forethought.sampling.vllm_shared import shared_vllm
from forethought.types import Completion, SampledPrompt, SampleRequest, Unsampled

LOWEST_TEMPERATURE = 0.01
"""vLLM raises lower ones to it."""


class VllmSampler:
    """Samples the model folder or hub name of `model`; every sampler reads the weights anew.

    Inside a model cache, policies take turns in one engine (vllm_shared.py).

    Example::

        with VllmSampler(VllmEngine(gpu_memory=0.8), model, params=params) as sampler:
            for result in sampler.sample(requests):
                ...
    """

    def __init__(
        self,
        config: VllmEngine,
        model: ModelConfig,
        *,
        params: SamplingParams,
        policy: bool = False,
    ) -> None:
        """Start the engine and load the model.

        Raises: ValueError if vLLM is not installed or cannot start, or the model cannot be loaded.
        """
        if 0 < params.temperature < LOWEST_TEMPERATURE:
            raise ValueError(
                f"temperature: {params.temperature} is below {LOWEST_TEMPERATURE}, the lowest that "
                "vLLM draws with; use 0 (greedy), or sampling.type: transformers"
            )
        self._name = model.path
        self._params = params
        self._template = rendering.template_variables(model)
        self._tokenizer = loading.load_tokenizer(model.source)
        self._end_ids = loading.end_token_ids(
            self._tokenizer, loading.generation_config(model.source)
        )
        weights = find_weights(model, adapters=config.adapters)
        with ExitStack() as opened:
            self._engine = opened.enter_context(shared_vllm(config, model, policy=policy))
            self._llm: Any = None
            self._llm, self._lora = self._engine.load(model, weights)
            self._context: int = self._llm.model_config.max_model_len
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._llm = None
        self._opened.close()

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """One result per request in order.

        Raises: ValueError if vLLM stops; the sampler is then closed.
        """
        assert self._llm is not None, "the sampler is closed"
        refuse_barred(requests, "vllm")
        tokenized = [
            tokenize(
                request,
                self._tokenizer,
                self._params,
                name=self._name,
                context=self._context,
                template=self._template,
            )
            for request in requests
        ]
        accepted = [each for each in tokenized if isinstance(each, TokenizedRequest)]
        outputs = iter(self._run(accepted))
        return iter(
            [
                each if isinstance(each, Unsampled) else self._sampled(request, each, outputs)
                for request, each in zip(requests, tokenized, strict=True)
            ]
        )

    def _run(self, accepted: Sequence[TokenizedRequest]) -> list[Any]:
        """vLLM's answers, one per seed of each request."""
        prompts = [
            {"prompt_token_ids": list(request.token_ids)}
            for request in accepted
            for _ in request.seeds
        ]
        settings = [
            self._settings(seed, request.limit) for request in accepted for seed in request.seeds
        ]
        if not prompts:
            return []
        # What is found in the cache is rounded otherwise: without it, a part of a run does not
        # depend on the parts before it.
        self._llm.reset_prefix_cache()
        try:
            return self._llm.generate(
                prompts, settings, use_tqdm=OutputsBar, lora_request=self._lora
            )
        # Errors of many types come out of vLLM, and after any it may never answer again.
        except Exception as error:
            self._engine.close()
            self.__exit__(None, None, None)
            raise ValueError(
                f"model: vLLM stopped while sampling {self._name}: {reason(error)}. If memory "
                "ran out, lower max_sequences or gpu_memory; if logits are NaN, check the weights "
                "or use model.dtype: float32; sampling.type: transformers does without vLLM"
            ) from error

    def _settings(self, seed: int, limit: int) -> Any:
        from vllm import SamplingParams as Settings  # pyright: ignore[reportMissingImports]

        fields: dict[str, Any] = {
            "temperature": self._params.temperature,
            "top_p": self._params.top_p,
            "max_tokens": limit,
            "seed": seed,
            # Its own notion of end tokens would come on top of these.
            "ignore_eos": True,
            "stop_token_ids": list(self._end_ids),
            "detokenize": False,
        }
        return Settings(**fields)

    def _sampled(
        self, request: SampleRequest, tokenized: TokenizedRequest, outputs: Iterator[Any]
    ) -> SampledPrompt:
        return SampledPrompt(
            prompt_id=request.prompt_id,
            prompt_token_ids=tokenized.token_ids,
            completions=tuple(self._completion(next(outputs).outputs[0]) for _ in tokenized.seeds),
        )

    def _completion(self, output: Any) -> Completion:
        assert output.finish_reason in ("stop", "length"), output.finish_reason
        return Completion(
            text=rendering.decode(self._tokenizer, output.token_ids),
            token_ids=tuple(output.token_ids),
            finish_reason=output.finish_reason,
        )
