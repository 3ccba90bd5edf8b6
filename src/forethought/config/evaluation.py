"""How policies answer held-out prompts, and what is measured of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from forethought.config.base import ConfigModel, Later, Operational
from forethought.config.engines import OpenAIEngine, SamplingConfig
from forethought.config.judges import JudgeConfig
from forethought.config.prompts import PromptSources


class DrawConfig(ConfigModel):
    """How one answer is drawn."""

    temperature: float = Field(default=0.8, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus mass."""
    attempts: int = Field(default=3, ge=1)
    """Outputs without a response are sampled again up to so many times, then lose."""

    @property
    def tries(self) -> int:
        """Outputs that may be drawn for an answer; a greedy one would only be repeated."""
        return self.attempts if self.temperature > 0 else 1


class AnswersConfig(DrawConfig):
    """How a policy answers held-out prompts."""

    samples: int = Field(default=1, ge=1)
    """Answers per prompt; their scores are averaged."""


class SelectionConfig(AnswersConfig):
    """Which epoch becomes the next policy."""

    by: Literal["judge", "last"] = "judge"
    """`judge`: the best mean judge score on validation prompts. `last`: the last epoch, and nothing
    is sampled; for small iterations."""


class EvaluationConfig(AnswersConfig):
    """How policies are scored on test prompts."""

    every: Annotated[int, Operational] = Field(default=1, ge=1)
    """Iterations from one evaluated policy to the next; the seed and the last always are. Measures
    are of evaluated policies."""


class MeasureConfig(ConfigModel):
    """What all measures share."""

    after: Annotated[Literal["every", "last"], Operational] = "every"
    """Measure every evaluated policy of a run, the seed included, or the last one only."""


class DrawnMeasure(MeasureConfig, DrawConfig):
    """What those share for which answers are drawn."""


class WinRateMeasure(DrawnMeasure):
    """Thought arm against direct arm on the test prompts, by the run's judge."""

    equal_tokens: bool = True
    """Also against a direct policy that may spend as many tokens as thinking took: on the best of
    several answers, and on one longer answer."""
    pick: Annotated[Literal["judge", "likelihood", "vote"], Later] = "judge"
    """What picks the best of several. `judge`: the one that then compares; a verifier that knows
    the answer makes this an upper bound. Without it: `vote`, the response that most of the answers
    agree on (self-consistency, Wang et al. 2022), case, white space and punctuation at its ends
    left out, the first drawn of equally frequent ones; `likelihood`, the answer with the highest
    mean log-prob per token by the direct policy itself."""
    longer: str = "Respond to the following user query in a comprehensive and detailed way."
    """What asks the direct policy for the longer answer; stands before the query as a thought
    instruction does."""


class AccuracyMeasure(DrawnMeasure):
    """Share of responses with the right final answer: GSM8K, or any data with a reference."""

    temperature: float = Field(default=0, ge=0)
    """0 is greedy."""
    sources: PromptSources = Field(min_length=1)
    """Questions; `columns.reference` names the column with the answer."""
    verifier: str = "gsm8k"
    """`gsm8k`, `microworld`, or `package.module:function`, called as `f(prompt, response)`."""
    answer_only: str = "Give only the final answer in your response."
    """Stands below the question in the second round: a thought may still be written, the response
    is the bare answer."""


class ProbeMeasure(DrawnMeasure):
    """Whether the response depends on the thought: the same prompt after another thought."""

    prompts: int = Field(default=200, ge=2)
    """So many of the test prompts at most."""


class AlpacaEvalMeasure(DrawnMeasure):
    """AlpacaEval 2: length-controlled win rate against a baseline's outputs."""

    instructions: Path
    """The evaluation set, `alpaca_eval.json`: a list of records with `instruction`, `dataset`."""
    baseline: Path
    """Outputs of the baseline: a list of records with `instruction`, `output`, `generator`."""
    annotator: OpenAIEngine
    """The judge's endpoint; it must give log-probabilities."""
    difficulty: Path | None = None
    """CSV with `index`, `instruction_difficulty`; without it the GLM drops that term."""
    gamed: Path | None = None
    """CSV with the gamed-baseline rows; without it the GLM does without them."""


class SecondJudgeMeasure(MeasureConfig):
    """Another judge, by which nothing is trained or chosen, scores the same answers to the test
    prompts: whether a policy became better, or only better liked by the judge that trained it."""

    judge: JudgeConfig
    """Another model than the run's judge, or a verifier."""
    epochs: bool = False
    """Also score the validation answers of every epoch of the training that ended in a policy, and
    say which epoch this judge would have chosen: as many judgements more as that selection had."""
    again: bool = False
    """Also ask the run's own judge once more about the same answers, by its next seeds: how far it
    differs from itself is the noise that both judges' gap is read against."""


class ArenaHardMeasure(DrawnMeasure):
    """Arena-Hard v0.1: two games a question against a baseline's answers."""

    temperature: float = Field(default=0, ge=0)
    """0 is greedy."""
    questions: Path
    """`question.jsonl` of the benchmark."""
    baseline: Path
    """JSONL of the baseline's answers: `question_id`, `choices`, as the benchmark publishes."""
    judge: OpenAIEngine
    """The judge's endpoint."""


class MeasuresConfig(ConfigModel):
    """What is measured of policies besides their test score; each is done if it is there."""

    win_rate: WinRateMeasure | None = None
    """Thought against direct, head to head."""
    second_judge: SecondJudgeMeasure | None = None
    """Does a judge that never trains see the same gain?"""
    gsm8k: AccuracyMeasure | None = None
    """GSM8K or other questions with a final answer."""
    probe: ProbeMeasure | None = None
    """Does the response depend on the thought?"""
    alpaca_eval: AlpacaEvalMeasure | None = None
    """AlpacaEval 2."""
    arena_hard: ArenaHardMeasure | None = None
    """Arena-Hard v0.1."""

    def refuse(self, sampling: SamplingConfig) -> None:
        """Raises: ValueError if a measure asks for what this engine of the policies cannot give."""
        head_to_head = self.win_rate
        if head_to_head is None or head_to_head.pick != "likelihood" or sampling.loads_model:
            return
        raise ValueError(
            "measures.win_rate.pick: likelihood is computed with the policy's own weights, and "
            f"sampling.type {sampling.type} does not load them here; use pick: vote, or "
            "sampling.type transformers or vllm"
        )
