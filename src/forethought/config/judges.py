"""Judges: what scores the responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from forethought.config.base import (
    ConfigModel,
    Device,
    DType,
    Later,
    ModelSource,
    Operational,
)
from forethought.config.judge_facts import JudgeFacts
from forethought.config.llm_judges import ChecklistJudge, PairwiseJudge, RatingJudge
from forethought.config.workers import OptionalWorkers
from forethought.types import Prompt

GRADERS = ("gsm8k", "microworld", "constraints")
"""Verifiers of the package: a grade is within 0 and 1, and they fail on prompts only, never on a
response."""


class VerifierJudge(JudgeFacts):
    """A Python function grades each response."""

    grades: ClassVar[bool] = True

    type: Literal["verifier"] = "verifier"
    function: str
    """`microworld`, `gsm8k`, `constraints`, or `package.module:function` taking (prompt, response)
    and giving a number."""
    workers: Annotated[OptionalWorkers, Operational] = None
    """Judge on Ray, by so many processes on any number of machines."""

    @property
    def title(self) -> str:
        """Its function."""
        return f"verifier {self.function}"

    @property
    def gives_shares(self) -> bool:
        """Whether it is one of the package."""
        return self.function in GRADERS

    @property
    def free_to_try(self) -> bool:
        """Whether it is one of the package."""
        return self.function in GRADERS

    @property
    def asks_a_model(self) -> bool:
        """No: it is a function."""
        return False

    @property
    def gpus(self) -> int | None:
        """None: a function in Python makes no use of them."""
        return 0


class ScoringJudge(JudgeFacts):
    """What all judges share that are a model which scores each conversation alone."""

    reads_prompt_once: ClassVar[bool] = False
    """Whether it reads a prompt once for all of its responses, not once for each."""
    decisive: ClassVar[tuple[str, ...]] = ("type", "dtype", "max_length")
    """The settings that decide a score, besides its model's files."""

    type: Any
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

    @property
    def source(self) -> ModelSource:
        """What its files are loaded by; none of their code is run."""
        return ModelSource(path=self.path, revision=self.revision)

    @property
    def title(self) -> str:
        """Its model."""
        return self.path

    @property
    def sources(self) -> tuple[tuple[str, ModelSource], ...]:
        """Its model."""
        return (("judge.path", self.source),)

    @property
    def devices(self) -> int:
        """One."""
        return 1

    @property
    def free_to_try(self) -> bool:
        """Yes: it reads any response."""
        return True


class RewardModelJudge(ScoringJudge):
    """A sequence-classification model with one logit."""

    decisive: ClassVar[tuple[str, ...]] = (*ScoringJudge.decisive, "trust_remote_code")

    type: Literal["reward_model"] = "reward_model"
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


class ArmoRMJudge(ScoringJudge):
    """ArmoRM: 19 objectives, mixed by a gate that reads the prompt (the paper's scoring judge)."""

    reads_prompt_once: ClassVar[bool] = True

    type: Literal["armorm"] = "armorm"
    path: str = "RLHFlow/ArmoRM-Llama3-8B-v0.1"
    """Hugging Face folder or hub name."""
    workers: Annotated[OptionalWorkers, Operational] = None
    """Judge on Ray, by so many processes on any number of machines."""

    @property
    def title(self) -> str:
        """Its kind and its model."""
        return f"ArmoRM {self.path}"


class CustomJudge(JudgeFacts):
    """A judge of the user's own."""

    type: Literal["custom"] = "custom"
    import_path: str
    """`package.module:Class`; it is called with `options` and has a `judge` method."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class."""
    relative: bool = False
    """Its scores compare the responses of one prompt only and mean nothing across prompts."""

    @property
    def title(self) -> str:
        """Its import path."""
        return self.import_path

    @property
    def is_relative(self) -> bool:
        """What the recipe says."""
        return self.relative

    @property
    def asks_a_model(self) -> bool:
        """No: what it asks is its own affair."""
        return False


_Single = (
    VerifierJudge
    | RewardModelJudge
    | ArmoRMJudge
    | PairwiseJudge
    | RatingJudge
    | ChecklistJudge
    | CustomJudge
)
SingleJudge = Annotated[_Single, Field(discriminator="type")]


class Member(ConfigModel):
    """One judge of a panel."""

    judge: SingleJudge
    """A judge of any type but `mixture`."""
    weight: float = Field(default=1, gt=0)
    """Its share in the average."""

    @property
    def asked_again(self) -> Member:
        """With its judge asked again."""
        return self.model_copy(update={"judge": self.judge.asked_again})


class Route(ConfigModel):
    """Which prompts go to which judges."""

    source: tuple[str, ...] = ()
    """Only prompts of these sources; empty: of all."""
    category: tuple[str, ...] = ()
    """Only prompts of these categories; empty: of all."""
    members: tuple[Member, ...] = Field(min_length=1)
    """One judge, or several whose scores are averaged."""

    def fits(self, prompt: Prompt) -> bool:
        """Whether a prompt of this source and category may take it."""
        return (not self.source or prompt.source in self.source) and (
            not self.category or prompt.category in self.category
        )


class MixtureJudge(JudgeFacts):
    """Judges by kind of prompt, or several at once, each normalised within the prompt's group."""

    type: Literal["mixture"] = "mixture"
    routes: tuple[Route, ...] = Field(min_length=1)
    """The first route that fits a prompt judges it. A prompt that fits none is not judged."""
    workers: Annotated[OptionalWorkers, Operational] = None
    """Judge on Ray, by so many processes on any number of machines."""

    @property
    def panels(self) -> tuple[Route, ...]:
        """Its routes."""
        return self.routes

    @property
    def judges(self) -> tuple[SingleJudge, ...]:
        """Those of all routes."""
        return tuple(member.judge for route in self.routes for member in route.members)

    @property
    def title(self) -> str:
        """All judges."""
        return "mixture of " + ", ".join(dict.fromkeys(judge.title for judge in self.judges))

    @property
    def is_relative(self) -> bool:
        """Yes: they are normalised within each group."""
        return True

    @property
    def asks_a_model(self) -> bool:
        """Whether a member does."""
        return any(judge.asks_a_model for judge in self.judges)

    @property
    def sources(self) -> tuple[tuple[str, ModelSource], ...]:
        """Those of all members."""
        return tuple(source for judge in self.judges for source in judge.sources)

    @property
    def asked_again(self) -> Self:
        """All its members."""
        routes = [
            route.model_copy(update={"members": tuple(one.asked_again for one in route.members)})
            for route in self.routes
        ]
        return self.model_copy(update={"routes": tuple(routes)})

    @property
    def devices(self) -> int:
        """The most that a member computes on; they take turns."""
        return max(judge.devices for judge in self.judges)

    def calls_per_group(self, responses: int) -> int:
        """Those of the most expensive route."""
        return max(
            sum(member.judge.calls_per_group(responses) for member in route.members)
            for route in self.routes
        )

    @model_validator(mode="after")
    def _workers_have_every_member(self) -> Self:
        if any(judge.pool is not None for judge in self.judges):
            raise ValueError(
                "workers: a worker holds the whole mixture, so they belong to the mixture, not to "
                "a member"
            )
        others = sorted({judge.type for judge in self.judges if not judge.takes_workers})
        if self.workers is not None and others:
            raise ValueError(
                f"workers: they are for armorm, reward_model and verifier, and this mixture has a "
                f"member of type {', '.join(others)}; leave workers out"
            )
        return self


JudgeConfig = Annotated[_Single | MixtureJudge, Field(discriminator="type")]
