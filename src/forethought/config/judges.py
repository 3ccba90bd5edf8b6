"""Judges: what scores the responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from forethought.config.base import (
    ConfigModel,
    Device,
    DType,
    Later,
    ModelConfig,
    ModelSource,
    Operational,
)
from forethought.config.engines import EngineConfig, TransformersEngine
from forethought.config.judge_facts import JudgeFacts
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


class LLMJudge(JudgeFacts):
    """What all judges share that are a chat model with a prompt file."""

    more_devices: ClassVar[str] = "judge.engine (a server's own devices are not counted)"
    shown: ClassVar[int] = 1
    """Responses that a call shows."""

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
    seed: Annotated[int, Later] = Field(default=0, ge=0, lt=2**31)
    """Of the first reply to a question; the others have the next ones. Another seed is another
    draw where `temperature` is above 0."""
    type: Any
    prompt: str
    """A prompt file of the package, or a YAML file of your own."""

    @property
    def replies(self) -> int:
        """Replies to each question, by the seeds from `seed` on."""
        return 1

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each reply to a question."""
        return tuple(range(self.seed, self.seed + self.replies))

    @property
    def asked_again(self) -> Self:
        """By the next seeds."""
        return self.model_copy(update={"seed": self.seed + self.replies})

    @property
    def model_name(self) -> str:
        """The judge model's name, as far as the recipe tells it."""
        return self.engine.model_name if self.model is None else self.model.path

    @property
    def title(self) -> str:
        """Its model, and what that is asked."""
        return f"{self.model_name}, {self.type} ({self.prompt})"

    @property
    def sources(self) -> tuple[tuple[str, ModelSource], ...]:
        """Its model, where the engine loads one."""
        return () if self.model is None else (("judge.model.path", self.model.source),)

    @property
    def devices(self) -> int:
        """Its engine's."""
        return self.engine.devices

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
        local = self.engine.loads_model
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


class Rounds(ConfigModel):
    """A tournament instead of all comparisons."""

    rounds: int = Field(ge=1)
    """In each round every response meets one other of similar strength, in both orders."""


class PairwiseJudge(LLMJudge):
    """A chat model compares two responses, always in both orders; scores by Bradley-Terry."""

    shown: ClassVar[int] = 2

    type: Literal["pairwise"] = "pairwise"
    prompt: str = "self_taught_evaluator"
    """`self_taught_evaluator`, `with_ties`, `arena_hard`, or a YAML file of your own."""
    comparisons: Literal["all"] | Rounds = "all"
    """`all` makes K(K-1) calls per prompt; `{rounds: n}` about n·K."""
    prior: float = Field(default=0.1, gt=0)
    """Precision (1/variance) of the Gaussian prior of the Bradley-Terry scores. It keeps finite
    the score of a response that wins or loses everything."""

    @property
    def is_relative(self) -> bool:
        """Yes: they are made by comparing."""
        return True

    def calls_per_group(self, responses: int) -> int:
        """Two for each comparison."""
        all_calls = responses * (responses - 1)
        if self.comparisons == "all":
            return all_calls
        return min(all_calls, self.comparisons.rounds * 2 * (responses // 2))


class RatingJudge(LLMJudge):
    """A chat model rates one response on a scale."""

    type: Literal["rating"] = "rating"
    prompt: str = "rating_1_to_10"
    """`rating_1_to_10`, or a YAML file of your own with another scale."""
    votes: int = Field(default=1, ge=1)
    """Ratings per response, averaged."""

    @property
    def replies(self) -> int:
        """One for each vote."""
        return self.votes

    def calls_per_group(self, responses: int) -> int:
        """One for each vote on each response."""
        return responses * self.votes

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(f"votes: {self.votes} votes at temperature 0 are all the same one")
        return self


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


SingleJudge = Annotated[
    VerifierJudge | RewardModelJudge | ArmoRMJudge | PairwiseJudge | RatingJudge | CustomJudge,
    Field(discriminator="type"),
]


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
