"""Judges that are a chat model with a prompt file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from forethought.config.base import ConfigModel, Later, ModelConfig, ModelSource
from forethought.config.engines import EngineConfig, TransformersEngine
from forethought.config.judge_facts import JudgeFacts


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


class Tournament(ConfigModel):
    """A tournament instead of all comparisons."""

    rounds: int | None = Field(default=None, ge=1)
    """In each round every response meets one other of similar strength, in both orders: after each
    round the judge waits for the verdicts."""
    circles: Annotated[int | None, Later] = Field(default=None, ge=1)
    """Every response meets its two neighbours in so many circles that are drawn beforehand, in both
    orders and nobody twice: all at once."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.rounds is None) == (self.circles is None):
            raise ValueError(
                "a tournament has either rounds or circles; give one of {rounds: n} and "
                "{circles: n}"
            )
        return self


def most_circles(responses: int) -> int:
    """Circles through so many responses of which no two have a meeting in common; more of them, or
    none through one or two, are all comparisons."""
    return max(0, (responses - 1) // 2)


class PairwiseJudge(LLMJudge):
    """A chat model compares two responses, always in both orders; scores by Bradley-Terry."""

    shown: ClassVar[int] = 2

    type: Literal["pairwise"] = "pairwise"
    prompt: str = "self_taught_evaluator"
    """`self_taught_evaluator`, `with_ties`, `arena_hard`, or a YAML file of your own."""
    comparisons: Literal["all", "circular"] | Tournament = "all"
    """`all` makes K(K-1) calls per prompt; `{rounds: n}` about n·K; `{circles: n}` 2n·K, of which
    `circular` is the first."""
    prior: float = Field(default=0.1, gt=0)
    """Precision (1/variance) of the Gaussian prior of the Bradley-Terry scores. It keeps finite
    the score of a response that wins or loses everything."""

    @property
    def is_relative(self) -> bool:
        """Yes: they are made by comparing."""
        return True

    @property
    def rounds(self) -> int | None:
        """Rounds of a tournament."""
        return self.comparisons.rounds if isinstance(self.comparisons, Tournament) else None

    @property
    def circles(self) -> int | None:
        """Circles of a tournament."""
        if isinstance(self.comparisons, Tournament):
            return self.comparisons.circles
        return 1 if self.comparisons == "circular" else None

    def calls_per_group(self, responses: int) -> int:
        """Two for each comparison."""
        all_calls = responses * (responses - 1)
        if self.rounds is not None:
            return min(all_calls, self.rounds * 2 * (responses // 2))
        if self.circles is not None and self.circles <= most_circles(responses):
            return self.circles * 2 * responses
        return all_calls


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


class ChecklistJudge(LLMJudge):
    """A chat model says of each item of a prompt's checklist whether a response meets it; the
    weighted share is the score."""

    type: Literal["checklist"] = "checklist"
    prompt: str = "checklist_item"
    """`checklist_item`, or a YAML file of your own that asks about one item."""
    items: Literal["per_prompt"] | Path = "per_prompt"
    """`per_prompt`: the judge model writes each prompt's items once, before it sees a response to
    it. Or a JSONL file of `{"prompt": …, "items": […]}` that has every prompt of the run."""
    items_prompt: str = "write_checklist"
    """By what the model is asked for items: `write_checklist`, or a YAML file of your own."""
    max_items: int = Field(default=8, ge=1)
    """Most items of a prompt. A written list with more is asked for once more."""

    @property
    def writes_items(self) -> bool:
        """Whether the items are the model's own."""
        return self.items == "per_prompt"

    @property
    def title(self) -> str:
        """Its model, and where the items are from."""
        return f"{self.model_name}, {self.type} ({self.items})"

    @property
    def gives_shares(self) -> bool:
        """Yes: of the items' weights."""
        return True

    def calls_per_group(self, responses: int) -> int:
        """One for each item on each response, and one that writes the items."""
        return responses * self.max_items + self.writes_items
