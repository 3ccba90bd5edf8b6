"""Engines that run a model: embedded, vLLM, a server, or a file of replies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from forethought.config.shape import Operational, Shape, default_type


class TransformersEngine(Shape):
    """The embedded engine: any causal model that transformers loads, CPU or GPU."""

    type: Literal["transformers"] = "transformers"
    rows: int = Field(default=512, ge=1)
    """Outputs decoded at a time. More is faster until the cache no longer fits."""


class VllmEngine(Shape):
    """vLLM in this process, with prefix caching. Needs the `vllm` package."""

    type: Literal["vllm"] = "vllm"
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share the model."""
    gpu_memory: Annotated[float, Operational] = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory for weights and cache."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt + output in tokens; the model's context by default."""
    max_sequences: Annotated[int, Operational] = Field(default=256, ge=1)
    """Outputs decoded at a time."""
    enforce_eager: Annotated[bool, Operational] = False
    """Skip graph capture: a quicker start, slower decoding."""
    adapters: bool = False
    """Where an adapter lies beside weights it was merged into, load its base and apply it. One that
    lies alone is always applied so."""


class Price(Shape):
    """What a hosted model costs, in any currency, per million tokens."""

    prompt: float = Field(ge=0)
    """Per million prompt tokens."""
    completion: float = Field(ge=0)
    """Per million completion tokens."""


class OpenAIEngine(Shape):
    """Any server with an OpenAI-compatible chat endpoint: vLLM, SGLang, llama.cpp, Ollama, hosted.

    As the policy's sampler the server must give token ids (vLLM does) and serve the policy itself.
    """

    type: Literal["openai"] = "openai"
    base_url: Annotated[str, Operational]
    """Address up to and with `/v1`, such as `http://localhost:8000/v1`."""
    model: str | None = None
    """Name of the model at the server; the only one it serves by default."""
    api_key_env: Annotated[str | None, Operational] = None
    """Name of the environment variable that holds the key. The key is never written anywhere."""
    concurrency: Annotated[int, Operational] = Field(default=32, ge=1)
    """Calls in flight at a time."""
    timeout: Annotated[float, Operational] = Field(default=600, gt=0)
    """Seconds until a call counts as lost and is tried again."""
    attempts: Annotated[int, Operational] = Field(default=6, ge=1)
    """Tries of a call on 429, 5xx, time-outs and dropped connections."""
    backoff: Annotated[float, Operational] = Field(default=1, gt=0)
    """Seconds before the second try; doubled each time, with jitter, at most a minute.
    `Retry-After` of the server goes first."""
    price: Annotated[Price | None, Operational] = None
    """To account for money beside tokens."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request body, such as `{"chat_template_kwargs": {…}}`."""


class ScriptedEngine(Shape):
    """Replies from a file: for tests and for trying a recipe without a model."""

    type: Literal["scripted"] = "scripted"
    path: Path
    """JSONL of `{"match": "text in the last user turn", "replies": ["…"]}`; the first line that
    matches answers, and a reply is drawn by the sample's seed."""


EngineConfig = Annotated[
    TransformersEngine | VllmEngine | OpenAIEngine | ScriptedEngine,
    Field(discriminator="type"),
    default_type("transformers"),
]
