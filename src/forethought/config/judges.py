"""Judges: what scores the responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from forethought.config.engines import EngineConfig, TransformersEngine
from forethought.config.shape import (
    Device,
    DType,
    Later,
    ModelConfig,
    ModelSource,
    Operational,
    Shape,
)
from forethought.config.workers import OptionalWorkers


class VerifierJudge(Shape):
    """A Python function grades each response."""

    type: Literal["verifier"] = "verifier"
    function: str
    """`microworld`, `gsm8k`, or `package.module:function` taking (prompt, response) and giving
    a number."""
    workers: Annotated[OptionalWorkers, Operational] = None
    """Judge on Ray, by so many processes on any number of machines."""


class RewardModelJudge(Shape):
    """A sequence-classification model with one logit."""

    type: Literal["reward_model"] = "reward_model"
    path: str
    """Hugging Face folder or hub name."""
    revision: Annotated[str | None, Later] = None
    """Commit, tag or branch of a hub model; the newest by default."""
    dtype: DType = "bfloat16"
    """Number type of the weights."""
    device: Device = "auto"
    """`auto` takes a GPU when there is one."""
    tokens_per_batch: int = Field(default=16384, ge=1)
    """Padded tokens per forward pass."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest conversation in tokens; the model's own limit by default. Longer is refused."""
    trust_remote_code: bool = False
    """Run modelling code that comes with the checkpoint."""
    long_context: Annotated[bool, Later] = False
    """Of a longrope model: read every conversation with its long position factors. Without it none
    goes beyond the length of the original training."""
    workers: Annotated[OptionalWorkers, Operational] = None
    """Judge on Ray, by so many processes on any number of machines."""

    @property
    def source(self) -> ModelSource:
        """What its files are loaded by."""
        return ModelSource(
            path=self.path,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            long_context=self.long_context,
        )


class ArmoRMJudge(Shape):
    """ArmoRM: 19 objectives, mixed by a gate that reads the prompt (the paper's scoring judge)."""

    type: Literal["armorm"] = "armorm"
    path: str = "RLHFlow/ArmoRM-Llama3-8B-v0.1"
    """Hugging Face folder or hub name."""
    revision: Annotated[str | None, Later] = None
    """Commit, tag or branch of a hub model; the newest by default."""
    dtype: DType = "bfloat16"
    """Number type of the weights."""
    device: Device = "auto"
    """`auto` takes a GPU when there is one."""
    tokens_per_batch: int = Field(default=16384, ge=1)
    """Padded tokens per forward pass."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest conversation in tokens; the model's own limit by default. Longer is refused."""
    workers: Annotated[OptionalWorkers, Operational] = None
    """Judge on Ray, by so many processes on any number of machines."""

    @property
    def source(self) -> ModelSource:
        """What its files are loaded by; none of their code is run."""
        return ModelSource(path=self.path, revision=self.revision)


class LLMJudge(Shape):
    """What all judges share that are a chat model with a prompt file."""

    engine: EngineConfig = TransformersEngine()
    """Where the judge model runs."""
    model: ModelConfig | None = None
    """The judge model, for engines that load one themselves; a server has its own."""
    temperature: float = Field(default=0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1, gt=0, le=1)
    """Nucleus mass."""
    max_new_tokens: int = Field(default=2048, ge=1)
    """Token limit of a verdict with its reasoning."""
    min_read: float = Field(default=0.5, gt=0, le=1)
    """Share of a response's verdicts that must be readable (1: all of them). A prompt with fewer
    stays owed; else it is scored from those there are, and the others are counted as missing."""

    @model_validator(mode="before")
    @classmethod
    def _no_workers(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("workers") is not None:
            raise ValueError(
                "workers: a chat model as judge has none; serve it on as many machines as you "
                "like and let engine.concurrency keep them busy. Workers are for armorm, "
                "reward_model, verifier and a mixture of these"
            )
        return given

    @model_validator(mode="after")
    def _engine_has_its_model(self) -> Self:
        local = self.engine.type in ("transformers", "vllm")
        if local and self.model is None:
            raise ValueError(
                f"engine {self.engine.type} loads a model itself; give model: {{path}}"
            )
        if not local and self.model is not None:
            raise ValueError(
                f"engine {self.engine.type} loads no model; leave out model (a server's model is "
                "engine.model)"
            )
        return self


class Rounds(Shape):
    """A tournament instead of all comparisons."""

    rounds: int = Field(ge=1)
    """In each round every response meets one other of similar strength, in both orders."""


class PairwiseJudge(LLMJudge):
    """A chat model compares two responses, always in both orders; scores by Bradley-Terry."""

    type: Literal["pairwise"] = "pairwise"
    prompt: str = "self_taught_evaluator"
    """`self_taught_evaluator`, `with_ties`, `arena_hard`, or a YAML file of your own."""
    comparisons: Literal["all"] | Rounds = "all"
    """`all` makes K(K-1) calls per prompt; `{rounds: n}` about n·K."""
    prior: float = Field(default=0.1, gt=0)
    """Precision (1/variance) of the Gaussian prior of the Bradley-Terry scores. It keeps finite
    the score of a response that wins or loses everything."""


class RatingJudge(LLMJudge):
    """A chat model rates one response on a scale."""

    type: Literal["rating"] = "rating"
    prompt: str = "rating_1_to_10"
    """`rating_1_to_10`, or a YAML file of your own with another scale."""
    votes: int = Field(default=1, ge=1)
    """Ratings per response, averaged."""

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(f"votes: {self.votes} votes at temperature 0 are all the same one")
        return self


class CustomJudge(Shape):
    """A judge of the user's own."""

    type: Literal["custom"] = "custom"
    import_path: str
    """`package.module:Class`; it is called with `options` and has a `judge` method."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class."""
    relative: bool = False
    """Its scores compare the responses of one prompt only and mean nothing across prompts."""


SingleJudge = Annotated[
    VerifierJudge | RewardModelJudge | ArmoRMJudge | PairwiseJudge | RatingJudge | CustomJudge,
    Field(discriminator="type"),
]


class Member(Shape):
    """One judge of a panel."""

    judge: SingleJudge
    weight: float = Field(default=1, gt=0)
    """Its share in the average."""


class Route(Shape):
    """Which prompts go to which judges."""

    source: tuple[str, ...] = ()
    """Only prompts of these sources; empty: of all."""
    category: tuple[str, ...] = ()
    """Only prompts of these categories; empty: of all."""
    members: tuple[Member, ...] = Field(min_length=1)
    """One judge, or several whose scores are averaged."""


class MixtureJudge(Shape):
    """Judges by kind of prompt, or several at once, each normalised within the prompt's group."""

    type: Literal["mixture"] = "mixture"
    routes: tuple[Route, ...] = Field(min_length=1)
    """The first route that fits a prompt judges it. A prompt that fits none is not judged."""
    workers: Annotated[OptionalWorkers, Operational] = None
    """Judge on Ray, by so many processes on any number of machines."""

    @model_validator(mode="after")
    def _workers_have_every_member(self) -> Self:
        members = [member.judge for route in self.routes for member in route.members]
        if any(_workers_of(one) is not None for one in members):
            raise ValueError(
                "workers: a worker holds the whole mixture, so they belong to the mixture, not to "
                "a member"
            )
        others = sorted({one.type for one in members if not isinstance(one, LocalJudge)})
        if self.workers is not None and others:
            raise ValueError(
                f"workers: they are for armorm, reward_model and verifier, and this mixture has a "
                f"member of type {', '.join(others)}; leave workers out"
            )
        return self


LocalJudge = VerifierJudge | RewardModelJudge | ArmoRMJudge
"""Judges that compute by themselves, and nothing but what they are given."""


def _workers_of(judge: Any) -> Any:
    return judge.workers if isinstance(judge, LocalJudge) else None


JudgeConfig = Annotated[
    VerifierJudge
    | RewardModelJudge
    | ArmoRMJudge
    | PairwiseJudge
    | RatingJudge
    | MixtureJudge
    | CustomJudge,
    Field(discriminator="type"),
]
