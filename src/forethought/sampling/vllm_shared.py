"""One vLLM for all policies of a run: their weights are replaced in place.

Inside a model cache, an engine is started once. The next policy's weights are read into it
(`reload_weights`); an adapter only needs another name. Before it is used, it gives the log-probs of
a fixed sequence of tokens, which must have changed and must be those of the checkpoint in
transformers. An engine that does not follow is ended and started anew on the checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from forethought.config import ModelConfig, ModelSource, VllmEngine
from forethought.models import loading
from forethought.models.model_cache import cached_open
from forethought.models.shared_policy import shared_policy, weight_files
from forethought.sampling.vllm_engine import ModelFiles, running

log = logging.getLogger(__name__)

PROBE = 48
"""Tokens of the sequence."""
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.15}
"""Greatest mean distance from transformers, in nats per token."""


class SharedVllm:
    """Holds now these weights, now those.

    Example: `llm, lora = engine.load(model, find_weights(model, adapters=False))`
    """

    def __init__(self, config: VllmEngine) -> None:
        self._config = config
        self._opened = ExitStack()
        self._llm: Any = None
        self._source: ModelSource | None = None
        self._files: Any = None
        self._takes_adapters = False
        self._adapters: dict[str, int] = {}

    def load(self, model: ModelConfig, weights: ModelFiles) -> tuple[Any, Any]:
        """The `vllm.LLM` with these weights, and how a prompt asks for its adapter, if any.

        Raises: ValueError if it cannot be started.
        """
        files = weight_files(weights.source)
        same = self._llm is not None and self._source == weights.source and self._files == files
        # An engine that was started for whole weights takes no adapter.
        fits = self._takes_adapters or weights.adapter is None
        if not fits or (not same and not self._move(model, weights)):
            self.close()
            self._llm = self._opened.enter_context(running(self._config, model, weights))
            self._takes_adapters = weights.adapter is not None
        self._source, self._files = weights.source, files
        if weights.adapter is None:
            return self._llm, None
        number = self._adapters.setdefault(str(weights.adapter), len(self._adapters) + 1)
        return self._llm, weights.request(number)

    def close(self) -> None:
        """End the engine; the next use starts one."""
        self._llm = None
        self._opened.close()

    def _move(self, model: ModelConfig, weights: ModelFiles) -> bool:
        """Read the weights into the running engine; whether it has them now."""
        if self._llm is None:
            return False
        ids = probe_ids(weights.source)
        before = self._logprobs(ids)
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": weights.source.path})
            after = self._logprobs(ids)
        # Errors of many types come out of vLLM.
        except Exception as error:
            log.warning("vLLM could not take the weights of %s: %s", weights.source.path, error)
            return False
        distance = float(np.abs(after - expected_logprobs(weights.source, model, ids)).mean())
        taken = distance <= TOLERANCE[model.dtype] and not np.array_equal(before, after)
        if not taken:
            log.warning(
                "vLLM has not the weights of %s after reading them (%.3g nats per token from "
                "transformers): it is started anew",
                weights.source.path,
                distance,
            )
        return taken

    def _logprobs(self, ids: list[int]) -> np.ndarray:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        self._llm.reset_prefix_cache()
        made: Any = SamplingParams
        settings = made(max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self._llm.generate([{"prompt_token_ids": ids}], settings, use_tqdm=False)
        found = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
        return np.array([logprobs[token].logprob for token, logprobs in found])


@contextmanager
def shared_vllm(config: VllmEngine, model: ModelConfig, *, policy: bool) -> Iterator[SharedVllm]:
    """The run's engine for policies; for any other model one of its own."""
    key = ("vllm", config, model.dtype, model.device, None if policy else model.source)
    with cached_open(key, lambda: _opened(config)) as engine:
        yield engine


@contextmanager
def _opened(config: VllmEngine) -> Iterator[SharedVllm]:
    engine = SharedVllm(config)
    try:
        yield engine
    finally:
        engine.close()


def probe_ids(source: ModelSource) -> list[int]:
    """A fixed sequence of the model's tokens."""
    vocabulary = loading.load_config(source).get_text_config().vocab_size
    drawn = np.random.Generator(np.random.PCG64(7)).integers(vocabulary, size=PROBE)
    return [int(token) for token in drawn]


@torch.no_grad()
def expected_logprobs(source: ModelSource, model: ModelConfig, ids: list[int]) -> np.ndarray:
    """Log-probs that transformers gives each of `ids` but the first, [len(ids) - 1] float64.

    By the run's own module where it has these weights, else by the checkpoint, loaded for this on
    the CPU.
    """
    network = shared_policy(model.dtype, model.device).held(source) or loading.load_runnable(
        source, dtype=model.dtype, device="cpu"
    )
    tokens = torch.tensor([ids], device=network.device)
    logits = network(tokens).logits[0, :-1].float()
    picked = torch.log_softmax(logits, -1).gather(1, tokens[0, 1:, None])[:, 0]
    return picked.double().cpu().numpy()
