"""Engines that run a model, and how the policy is sampled on each: embedded, vLLM, a server, or a
file of replies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from forethought.config.base import ConfigModel, Operational, default_type
from forethought.config.secrets import refuse_secrets
from forethought.config.workers import OptionalWorkers, Pooled


class EngineFacts(ConfigModel):
    """What the program asks of every engine. Each engine answers what is otherwise for it."""

    loads_model: ClassVar[bool] = False
    """Whether it loads a model itself. A judge's other engines have one of their own."""
    is_server: ClassVar[bool] = False
    """Whether calls go to a server, whose tokenizer is not at hand and whose replies are kept as
    they arrive."""
    captures_steps: ClassVar[bool] = False
    """Whether it captures its decoding steps as graphs: it starts slowly, and a step is launched as
    one."""
    shares_prompts: ClassVar[bool] = False
    """Whether a decoding step reads a prompt's keys and values once for all of its outputs."""

    forces_modes: ClassVar[bool] = False
    """Whether it can have an output open with given tokens, and keep one from opening with them."""

    @property
    def model_name(self) -> str:
        """The model of its own, as far as the recipe tells it."""
        return "the engine's own model"

    @property
    def devices(self) -> int:
        """Devices that it computes on: one that loads a model on one, others on none."""
        return int(self.loads_model)

    @property
    def gpus(self) -> int | None:
        """GPUs that it needs wherever it runs; `None` where that depends on the machine."""
        return None

    @property
    def reserved(self) -> float | None:
        """Share of a device's memory that it takes whatever the model; `None` where it takes what
        the model and its outputs need."""
        return None

    @property
    def rows_at_once(self) -> int:
        """Outputs decoded at a time."""
        return 1

    @property
    def context(self) -> int | None:
        """Longest prompt + output in tokens, where the recipe sets one."""
        return None

    @property
    def free_to_try(self) -> bool:
        """Whether any prompt may be tried on it. A server that somebody else runs may want money; a
        script knows its own prompts only."""
        return self.loads_model


class TransformersEngine(EngineFacts):
    """The embedded engine: any causal model that transformers loads, CPU or GPU."""

    loads_model: ClassVar[bool] = True
    shares_prompts: ClassVar[bool] = True
    forces_modes: ClassVar[bool] = True

    type: Literal["transformers"] = "transformers"
    rows: int = Field(default=512, ge=1)
    """Outputs decoded at a time. More is faster until the cache no longer fits."""

    @property
    def rows_at_once(self) -> int:
        """Its `rows`."""
        return self.rows


class VllmEngine(EngineFacts):
    """vLLM in this process, with prefix caching. Needs the `vllm` package."""

    loads_model: ClassVar[bool] = True
    captures_steps: ClassVar[bool] = True

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

    @property
    def devices(self) -> int:
        """Those that share the model."""
        return self.tensor_parallel

    @property
    def gpus(self) -> int | None:
        """Those that share the model."""
        return self.tensor_parallel

    @property
    def reserved(self) -> float | None:
        """Its `gpu_memory`."""
        return self.gpu_memory

    @property
    def rows_at_once(self) -> int:
        """Its `max_sequences`."""
        return self.max_sequences

    @property
    def context(self) -> int | None:
        """Its `max_model_len`."""
        return self.max_model_len


class Price(ConfigModel):
    """What a hosted model costs, in any currency, per million tokens."""

    prompt: float = Field(ge=0)
    """Per million prompt tokens."""
    completion: float = Field(ge=0)
    """Per million completion tokens."""


class OpenAIEngine(EngineFacts):
    """Any server with an OpenAI-compatible chat endpoint: vLLM, SGLang, llama.cpp, Ollama, hosted.

    As the policy's sampler the server must give token ids (vLLM does) and serve the policy itself.
    """

    is_server: ClassVar[bool] = True

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

    @model_validator(mode="after")
    def _no_secret_is_written(self) -> Self:
        refuse_secrets(self.base_url, self.extra_body)
        return self

    @property
    def model_name(self) -> str:
        """Its `model`, if the recipe says which."""
        return self.model or "the model at the server"


class ScriptedEngine(EngineFacts):
    """Replies from a file: for tests and for trying a recipe without a model."""

    type: Literal["scripted"] = "scripted"
    path: Path
    """JSONL of `{"match": "text in the last user turn", "replies": ["…"]}`; the first line that
    matches answers, and a reply is drawn by the sample's seed."""

    @property
    def model_name(self) -> str:
        """There is none: a file answers."""
        return "scripted replies"


EngineConfig = Annotated[
    TransformersEngine | VllmEngine | OpenAIEngine | ScriptedEngine,
    Field(discriminator="type"),
    default_type("transformers"),
]


class SamplingFacts(Pooled):
    """What all samplers share."""

    samples: int = Field(default=8, ge=1)
    """K, outputs per prompt. A run needs two for a pair."""
    temperature: float = Field(default=0.8, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus mass."""
    max_new_tokens: int = Field(default=2048, ge=1)
    """Token limit of an output, the end token included."""
    part_size: int = Field(default=256, ge=1)
    """Prompts per part: what is redone at most after a kill, and what one worker does at a time."""


class TransformersSampling(SamplingFacts, TransformersEngine):
    """Sample the policy in the embedded engine."""

    workers: Annotated[OptionalWorkers, Operational] = None
    """Sample on Ray, by so many processes on any number of machines."""


class VllmSampling(SamplingFacts, VllmEngine):
    """Sample the policy in vLLM."""

    workers: Annotated[OptionalWorkers, Operational] = None
    """Sample on Ray, by so many engines on any number of machines."""

    @model_validator(mode="after")
    def _workers_hold_the_model(self) -> Self:
        gpus = self.workers and self.workers.gpus
        if gpus is not None and self.tensor_parallel > 1 and gpus != self.tensor_parallel:
            raise ValueError(
                f"workers.gpus: {gpus:g} is not tensor_parallel, {self.tensor_parallel}, the GPUs "
                "that share a model; leave workers.gpus out, or make them equal"
            )
        return self


def _refuse_workers(given: Any) -> Any:
    """Raises: ValueError for an engine that a pool would not speed up."""
    if isinstance(given, dict) and given.get("workers") is not None:
        raise ValueError(
            f"workers: sampling.type {given.get('type')} has none; they are for transformers and "
            "vllm, which compute themselves. A server's calls in flight are its `concurrency`"
        )
    return given


class OpenAISampling(SamplingFacts, OpenAIEngine):
    """Sample the policy at a server that serves it."""

    _no_workers = model_validator(mode="before")(_refuse_workers)
    command: Annotated[str | None, Operational] = None
    """Starts a server for each policy, such as `vllm serve {model} --port {port}`; with
    `base_url: http://localhost:{port}/v1`. Without it the server has to serve the policy already,
    which only the seed's can."""

    @property
    def free_to_try(self) -> bool:
        """Whether the server is its own, and nobody else's."""
        return self.command is not None

    @model_validator(mode="after")
    def _one_port(self) -> Self:
        if self.command is None and "{port}" in self.base_url:
            raise ValueError("base_url has {port}, which only a command can fill; give the port")
        if self.command is not None:
            for place, text in (("command", self.command), ("base_url", self.base_url)):
                if "{port}" not in text:
                    raise ValueError(f"{place}: {text!r} lacks {{port}}, where the server listens")
            if "{model}" not in self.command:
                raise ValueError(f"command: {self.command!r} lacks {{model}}, what it is to serve")
        return self


class ScriptedSampling(SamplingFacts, ScriptedEngine):
    """Sample from a file of replies."""

    _no_workers = model_validator(mode="before")(_refuse_workers)


SamplingConfig = Annotated[
    TransformersSampling | VllmSampling | OpenAISampling | ScriptedSampling,
    Field(discriminator="type"),
    default_type("transformers"),
]
