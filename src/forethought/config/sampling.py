"""How the policy is sampled, on each engine."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from forethought.config.engines import (
    OpenAIEngine,
    ScriptedEngine,
    TransformersEngine,
    VllmEngine,
)
from forethought.config.shape import Operational, Shape


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
    """Prompts per part: what is redone at most after a kill."""


class TransformersSampling(SamplingShape, TransformersEngine):
    """Sample the policy in the embedded engine."""


class VllmSampling(SamplingShape, VllmEngine):
    """Sample the policy in vLLM."""


class OpenAISampling(SamplingShape, OpenAIEngine):
    """Sample the policy at a server that serves it."""

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


SamplingConfig = Annotated[
    TransformersSampling | VllmSampling | OpenAISampling | ScriptedSampling,
    Field(discriminator="type"),
]
