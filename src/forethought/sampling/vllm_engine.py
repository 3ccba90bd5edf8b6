"""Start vLLM on a checkpoint, and leave nothing of it behind.

On GPUs the engine lives in processes of its own, whose end returns the memory. On CPU it lives in
this process: one at a time, and whole prompts are prefilled at once, because vLLM (0.32) cannot
draw with seeds there where it cuts a prompt into chunks.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from forethought.config import ModelConfig, ModelSource, VllmEngine
from forethought.models import loading
from forethought.models.positions import original_length

ADAPTER = "adapter"
"""Folder beside the merged weights in which training leaves what it learned."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Upper limits of an adapter's rank that vLLM can be told."""
DEFAULTS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # Without it vLLM draws from logits that are NaN, and the outputs look like any others.
    "VLLM_RAISE_ON_LOGIT_NANS": "1",
}
"""Environment variables of vLLM where the user has set none."""
LONGEST_REASON = 600
"""Characters; vLLM may list all that it could have loaded."""

_engine_of_this_process = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """What vLLM loads: a model, and an adapter on it where there is one.

    Example: `ModelFiles(source=ModelSource(path="runs/a/policy"), adapter=None, rank=0)`
    """

    source: ModelSource
    """Its path is a folder or hub name."""
    adapter: Path | None
    rank: int

    def options(self) -> dict[str, Any]:
        """Arguments of `vllm.LLM`."""
        named: dict[str, Any] = {
            "model": self.source.path,
            "trust_remote_code": self.source.trust_remote_code,
        }
        if self.source.revision is not None:
            named |= {"revision": self.source.revision, "code_revision": self.source.revision}
        if self.adapter is None:
            return named
        return named | {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": lora_limit(self.rank),
        }

    def request(self, number: int) -> Any:
        """How a prompt asks vLLM for the adapter; an engine knows adapters by number, from 1."""
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        return LoRARequest(f"{ADAPTER}_{number}", number, str(self.adapter))


def lora_limit(rank: int) -> int:
    """The least upper limit that vLLM can be told for an adapter's rank."""
    return min(limit for limit in LORA_RANKS if limit >= rank)


def find_weights(model: ModelConfig, *, adapters: bool) -> ModelFiles:
    """The model's own weights or, with `adapters` and where it has one, its adapter and base.

    Raises: ValueError if there is no such model, or the adapter cannot be used.
    """
    source = replace(model.source, path=loading.resolve(model.source))
    folder = Path(source.path) / ADAPTER
    merged = any(Path(source.path).glob("*.safetensors"))
    if not folder.is_dir() or (merged and not adapters):
        return ModelFiles(source=source, adapter=None, rank=0)
    way_out = "sample another policy"
    if merged:
        way_out = "set adapters: false to sample the merged weights beside it"
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base, rank = str(config["base_model_name_or_path"] or ""), int(config["r"])
        if not base:
            raise ValueError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"adapters: {folder} holds no adapter that training wrote ({error!r}); {way_out}"
        ) from error
    if rank > LORA_RANKS[-1]:
        raise ValueError(
            f"adapters: {folder} has rank {rank}, vLLM takes at most {LORA_RANKS[-1]}; {way_out}"
        )
    try:
        of_base = replace(source, path=base, revision=config.get("revision"))
        of_base = replace(of_base, path=loading.resolve(of_base))
        return ModelFiles(source=of_base, adapter=folder, rank=rank)
    except ValueError as error:
        raise ValueError(
            f"adapters: {folder} was trained on {base}, which is not there ({error}); "
            f"put it back, or {way_out}"
        ) from error


@contextmanager
def running(config: VllmEngine, model: ModelConfig, weights: ModelFiles) -> Iterator[Any]:
    """A `vllm.LLM`; afterwards its memory is free and the process as it was.

    Raises: ValueError if vLLM is not installed, does not fit this machine, or cannot start.
    """
    with _process_left_as_found():
        with _no_future_warnings():
            llm_class = _import_vllm()
        here = _device(model) == "cpu"
        if here and config.tensor_parallel > 1:
            raise ValueError(
                f"tensor_parallel: {config.tensor_parallel} is for GPUs, and the installed vLLM "
                "runs on cpu; use tensor_parallel: 1"
            )
        if here and not _engine_of_this_process.acquire(blocking=False):
            raise ValueError(
                "sampling.type: vllm on CPU runs one engine at a time in a process, and one is "
                "open; use another engine for one of the two"
            )
        try:
            with _no_future_warnings():
                llm = _start(llm_class, config, model, weights, here)
            try:
                yield llm
            finally:
                llm.llm_engine.engine_core.shutdown()
                del llm
                loading.free_memory()
        finally:
            if here:
                _engine_of_this_process.release()


def reason(error: Exception) -> str:
    """What vLLM said, in one line."""
    text = str(error)
    if isinstance(error, ValidationError):
        text = "; ".join(mistake["msg"] for mistake in error.errors())
    line = " ".join(text.split()).rstrip(".") or repr(error)
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + " …"


def _import_vllm() -> Any:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    # A build for another torch or another driver fails in the other two.
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"sampling.type: vllm cannot be imported ({reason(error)}); install it with "
            "pip install vllm, or use sampling.type: transformers"
        ) from error
    return LLM


def _device(model: ModelConfig) -> str:
    """What the installed vLLM runs on, such as `cuda` or `cpu`."""
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    device: str = current_platform.device_type
    if model.device not in ("auto", device):
        raise ValueError(
            f"model.device: {model.device} is asked for and the installed vLLM runs on "
            f"{device or 'no device of this machine'}; use device: auto, or install the vLLM for "
            f"{model.device}"
        )
    return device


def _start(
    llm_class: Any, config: VllmEngine, model: ModelConfig, weights: ModelFiles, here: bool
) -> Any:
    from vllm.distributed import (  # pyright: ignore[reportMissingImports]
        cleanup_dist_env_and_memory,
    )

    length = _length(config.max_model_len, weights.source)
    options: dict[str, Any] = {}
    if here:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        options["enable_chunked_prefill"] = False
        if os.environ["VLLM_LOGGING_LEVEL"] == DEFAULTS["VLLM_LOGGING_LEVEL"]:
            # An error comes as an exception; a dump of the engine's state says no more.
            logging.getLogger("vllm").setLevel(logging.CRITICAL)
    try:
        return llm_class(
            **weights.options(),
            dtype=model.dtype,
            tensor_parallel_size=config.tensor_parallel,
            gpu_memory_utilization=config.gpu_memory,
            max_model_len=length,
            max_num_seqs=config.max_sequences,
            enforce_eager=config.enforce_eager,
            enable_prefix_caching=True,
            # Prompts come as ids and outputs leave as ids.
            skip_tokenizer_init=True,
            # Not the checkpoint's temperature, top-k or penalties.
            generation_config="vllm",
            use_tqdm_on_load=False,
            **options,
        )
    # Errors of many types come out of vLLM.
    except Exception as error:
        if here:
            cleanup_dist_env_and_memory()
        raise ValueError(
            f"sampling.type: vllm could not start {model.path}: {reason(error)}. Memory depends "
            "on gpu_memory, max_model_len, max_sequences and tensor_parallel; sampling.type: "
            "transformers does without vLLM"
        ) from error


def _length(asked: int | None, source: ModelSource) -> int | None:
    """vLLM's `max_model_len`, by which it chooses a longrope model's factors.

    Raises: ValueError if it would choose others than training.
    """
    original = original_length(loading.load_config(source))
    if original is None:
        return asked
    if source.long_context and asked is not None and asked <= original:
        raise ValueError(
            f"max_model_len: {asked} has vLLM read {source.path} with its short position factors, "
            f"and model.long_context asks for the long ones; give more than {original}"
        )
    if not source.long_context and asked is not None and asked > original:
        raise ValueError(
            f"max_model_len: {asked} has vLLM read {source.path} with its long position factors; "
            f"give at most {original}, or set model.long_context: true for everything"
        )
    return asked if source.long_context else asked or original


@contextmanager
def _process_left_as_found() -> Iterator[None]:
    """vLLM sets environment variables and, on CPU, turns `torch.set_num_threads` off."""
    before, set_num_threads = dict(os.environ), torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _no_future_warnings() -> Iterator[None]:
    """vLLM's own, which say nothing to whoever samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
