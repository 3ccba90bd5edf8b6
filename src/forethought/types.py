"""The nouns of forethought: what flows from a prompt to a preference pair.

Every record is frozen and flat enough to be a row of a Parquet part. A value that must not be
mistaken for another has its own name here: an output without a response carries `response=None`,
a group the judge could not score is an `Unjudged`, never a `Judgement` with a made-up number.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]
Arm = Literal["thought", "direct", "hybrid"]
PairKind = Literal["judged", "unparsable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    Example: `Message(role="user", content="What is 2 + 3?")`
    """

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation that ends with the user's turn; the thought instruction is never in it.

    Example: `Prompt(prompt_id="9f2c41d07a6be358", messages=(Message(role="user", content="Hi"),),
    category="greeting", source="microworld", reference="Hello!")`
    """

    prompt_id: str
    """Content hash of the messages: equal conversations have equal ids."""
    messages: tuple[Message, ...]
    category: str | None
    source: str
    reference: str | None
    """What a verifier compares with, such as a final number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """What a sampler is asked for: one output per seed, for one conversation.

    The thought instruction is already in `messages`; a sampler does not know of formats.

    Example: `SampleRequest(prompt_id="9f2c…", messages=(Message(…),), seeds=(17, 4711))`
    """

    prompt_id: str
    messages: tuple[Message, ...]
    seeds: tuple[int, ...]
    """One 63-bit seed per wanted output; the output is a function of the seed, not of its place."""
    opening_ids: tuple[int, ...] = ()
    """Tokens the output has already begun with, such as a thought that was put there. They count
    towards the token limit and are not in the completion. Engines at a server refuse them."""
    never_opens_with: tuple[tuple[int, ...], ...] = ()
    """Tokens, one after the other, that the output may not begin with: the last of them is not
    drawn behind the others. Only the embedded engine can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled output.

    Example: `Completion(text="Here is my thought process: …", token_ids=(51, 9, 2),
    finish_reason="stop")`
    """

    text: str
    """The decoded output without special tokens."""
    token_ids: tuple[int, ...]
    """The sampler's own ids, the end token included when `finish_reason` is `stop`."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPrompt:
    """All completions of one request, in the order of its seeds.

    Example: `SampledPrompt(prompt_id="9f2c…", prompt_token_ids=(0, 4, 77), completions=(…,))`
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsampled:
    """A request that the engine could not answer, such as a conversation beyond its context.

    Example: `Unsampled(prompt_id="9f2c…", reason="8411 tokens; the model takes 8192")`
    """

    prompt_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A prompt that a stage went on without.

    Example: `LeftOut(prompt_id="9f2c…", where="p.jsonl, line 3", reason="8411 tokens; …")`
    """

    prompt_id: str
    where: str
    """File and line, or what else names the record."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlace:
    """Where a prompt of a run came from.

    Example: `PromptPlace(prompt_id="9f2c…", where="p.jsonl, line 3")`
    """

    prompt_id: str
    where: str


class ParseStatus(StrEnum):
    """What the splitter found. Only `COMPLETE` has a response."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    """The token limit came inside the response."""
    NO_RESPONSE = "no_response"
    """No response marker: the whole output is thought, or something else."""
    EMPTY_RESPONSE = "empty_response"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedOutput:
    """An output split into thought and response.

    Example: `ParsedOutput(status=ParseStatus.COMPLETE, thought="2 + 3 is 5.", response="5",
    response_offset=58)`
    """

    status: ParseStatus
    thought: str | None
    response: str | None
    """`None` unless `status` is `COMPLETE`."""
    response_offset: int | None
    """Where the response begins in the text (characters), `None` where no response begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled output of the policy with all that later stages need of it.

    Example: `Rollout(prompt_id="9f2c…", sample_index=3, prompt_token_ids=(0, 4), completion=…,
    parsed=…, response_start=12, response_tokens=4)`
    """

    prompt_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    """The conversation as it was sampled, the thought instruction included."""
    completion: Completion
    parsed: ParsedOutput
    response_start: int
    """Index of the first token that contributes to the response; `len(token_ids)` if none does."""
    response_tokens: int
    """Tokens of the response alone, the end token not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseGroup:
    """All that a judge ever sees of a prompt: its conversation and bare responses.

    Example: `ResponseGroup(prompt=Prompt(…), responses=("5", "6"))`
    """

    prompt: Prompt
    responses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The scores of a group, one per response in the group's order; higher is better.

    Example: `Judgement(prompt_id="9f2c…", judge="verifier:gsm8k", scores=(1.0, 0.0), evidence="")`
    """

    prompt_id: str
    judge: str
    scores: tuple[float | None, ...]
    """`None` only where `missing` is above 0: too few verdicts on that response could be read."""
    evidence: str
    """What the judge wants kept for a reader: a verdict text, objectives; may be empty."""
    missing: int = 0
    """Verdicts that were asked for and could not be read; the scores are made of the others."""

    @property
    def all_scores(self) -> tuple[float, ...]:
        """The scores where every response has one."""
        known = tuple(score for score in self.scores if score is not None)
        assert len(known) == len(self.scores), f"{self.missing} verdicts are missing"
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """A group the judge could not score. It stays owed; there is no number for it.

    Example: `Unjudged(prompt_id="9f2c…", judge="reward_model:…", reason="8411 tokens, limit 8192")`
    """

    prompt_id: str
    judge: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A sealed judgement: which samples of the prompt were shown to the judge, and their scores.

    Example: `ScoredGroup(prompt_id="9f2c…", judge="verifier:microworld", sample_indices=(0, 2),
    scores=(1.0, 0.0), evidence="")`
    """

    prompt_id: str
    judge: str
    sample_indices: tuple[int, ...]
    scores: tuple[float, ...]
    evidence: str
    missing: int = 0
    """Verdicts that could not be read; a response with too few of them is not in here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSide:
    """One side of a pair: the sampler's own tokens and what decided about them.

    With `pairs.thoughts: shuffled` those before `response_start` are another output's.

    Example: `PairSide(sample_index=3, token_ids=(51, 9, 2), response_start=2, response_tokens=1,
    score=1.0, shaped_score=1.9)`
    """

    sample_index: int
    token_ids: tuple[int, ...]
    response_start: int
    """Index in `token_ids`, as in `Rollout`."""
    response_tokens: int
    score: float | None
    """The judge's score; `None` for an output that has no response."""
    shaped_score: float | None
    """The score after length control and the price of its thought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """What DPO trains on: the whole outputs, thoughts included.

    Example: `PreferencePair(prompt_id="9f2c…", prompt_token_ids=(0, 4), chosen=PairSide(…),
    rejected=PairSide(…), kind="judged", margin=1.0)`
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    chosen: PairSide
    rejected: PairSide
    kind: PairKind
    margin: float | None
    """Judge score of chosen minus rejected; `None` when the rejected output has no response."""
    chosen_forced: tuple[int, ...] = ()
    """Places in the chosen output's tokens at which the policy was not free to draw: in the hybrid
    arm, where a mode was forced. Their log-probs count nowhere."""
    rejected_forced: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of all outputs that are trained on."""
        return self.chosen.token_ids, self.rejected.token_ids

    @property
    def forced(self) -> tuple[tuple[int, ...], ...]:
        """Of each of these outputs the places that count nowhere."""
        return self.chosen_forced, self.rejected_forced


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A conversation with the answer that it should get, and the thought before that.

    Example: `Demonstration(where="mine.jsonl, line 3", prompt=Prompt(…), thought="2 + 3 is 5.",
    response="5")`
    """

    where: str
    """File and line."""
    prompt: Prompt
    thought: str | None
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """A whole output that a policy learns to write: thought, response and end token.

    Example: `TrainingExample(prompt_id="9f2c…", sample_index=3, prompt_token_ids=(0, 4),
    token_ids=(51, 9, 2), response_start=2, score=1.0)`
    """

    prompt_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    """The conversation as it will be asked: without demonstrations."""
    token_ids: tuple[int, ...]
    response_start: int
    """Index in `token_ids`, as in `Rollout`."""
    score: float | None
    """The judge's, where it was asked and could score the response."""

    @property
    def outputs(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of all outputs that are trained on: the one."""
        return (self.token_ids,)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairDecision:
    """Why a prompt gave a pair or gave none.

    Example: `PairDecision(prompt_id="9f2c…", outcome="tie", judged=8, unparsable=0,
    chosen_index=None, rejected_index=None)`
    """

    prompt_id: str
    outcome: str
    """`judged`, `unparsable` (a pair of that kind) or the reason for none: `tie`,
    `one_judged`, `none_judged`, `unjudged`, `unparsable_quota`, `one_mode`."""
    judged: int
    """Outputs with a score of the judge."""
    unparsable: int
    """Outputs without a response."""
    chosen_index: int | None
    """The chosen output's `sample_index`; `None` where there is no pair."""
    rejected_index: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A policy's answer to a held-out prompt, for selection and evaluation.

    Example: `Answer(prompt_id="9f2c…", sample_index=0, attempts=1, completion=…, parsed=…,
    thought_tokens=31, response_tokens=4, score=1.0)`
    """

    prompt_id: str
    sample_index: int
    attempts: int
    """Outputs drawn until one had a response, or the limit was reached."""
    completion: Completion
    """The last output drawn."""
    parsed: ParsedOutput
    thought_tokens: int
    """Tokens before the response, markers included; 0 in the direct format."""
    response_tokens: int
    score: float | None
    """The judge's score; `None` where there is no response: a loss, never a number of its own."""
    earlier_tokens: int = 0
    """Tokens of the outputs drawn before the last one: those without a response cost as much."""

    @property
    def spent_tokens(self) -> int:
        """Tokens of all outputs drawn for this answer; 0 where the engine gives no ids."""
        return self.earlier_tokens + len(self.completion.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """A figure with its interval.

    Example: `EvaluationResult(name="test_score", value=0.61, interval=(0.57, 0.65), count=400)`
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    """95 %; `None` where the values do not tell how sure the figure is: a single one, or equal
    ones, of a scale without known ends."""
    count: int
    """Prompts, or what else the interval is over."""
    category: str | None = None
    """The prompts' category, where the figure is of one."""
