"""How the policy is sampled, on each engine."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from forethought.config.engines import (
    OpenAIEngine,
    ScriptedEngine,
    TransformersEngine,
    VllmEngine,
)
from forethought.config.shape import Operational, Shape, default_type
from forethought.config.workers import OptionalWorkers


class SamplingShape(Shape):
    """What all samplers share."""

    samples: int = Field(default=8, ge=2)
    """K, outputs per prompt. A pair needs two."""
    temperature: float = Field(default=0.8, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus mass."""
    max_new_tokens: int = Field(default=2048, ge=1)
    """Token limit of an output, the end token included."""
    part_size: int = Field(default=256, ge=1)
    """Prompts per part: what is redone at most after a kill, and what one worker does at a time."""


class TransformersSampling(SamplingShape, TransformersEngine):
    """Sample the policy in the embedded engine."""

    workers: Annotated[OptionalWorkers, Operational] = None
    """Sample on Ray, by so many processes on any number of machines."""


class VllmSampling(SamplingShape, VllmEngine):
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


class OpenAISampling(SamplingShape, OpenAIEngine):
    """Sample the policy at a server that serves it."""

    _no_workers = model_validator(mode="before")(_refuse_workers)
    command: Annotated[str | None, Operational] = None
    """Starts a server for each policy, such as `vllm serve {model} --port {port}`; with
    `base_url: http://localhost:{port}/v1`. Without it the server has to serve the policy already,
    which only the seed's can."""

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


class ScriptedSampling(SamplingShape, ScriptedEngine):
    """Sample from a file of replies."""

    _no_workers = model_validator(mode="before")(_refuse_workers)


SamplingConfig = Annotated[
    TransformersSampling | VllmSampling | OpenAISampling | ScriptedSampling,
    Field(discriminator="type"),
    default_type("transformers"),
]
