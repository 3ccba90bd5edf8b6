"""How long prompts and outputs are: given, read from an earlier run, or assumed.

Nothing decides a plan's seconds more. A small run of the same recipe tells best:
`forethought plan RECIPE --gpu h200 --like runs/small`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, lgamma
from pathlib import Path

from forethought.config import Recipe
from forethought.config.recipe_files import load_run
from forethought.models.loading import MICROWORLD
from forethought.runs.layout import WARM_START, StageRef
from forethought.stages.policies.demonstrated import arm_demonstrations
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.thoughts import DIRECT, HYBRID_SENTENCE
from forethought.types import Arm, PreferencePair

LETTERS_PER_TOKEN = 4.5
"""Of English under today's vocabularies: how long a thought instruction is in tokens."""
SPREAD = 1.33
"""Mean of the squared output length over the square of its mean: 1 + (400 / 700) ** 2."""
LONGEST = 3.0
"""The longest outputs, in means (quickstart: 89 of 29.6 tokens, 24 of 7.8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of one arm.

    Example: `Lengths(prompt=305, output=700, response=400, pairs=0.9, source="assumed")`
    """

    prompt: float
    """A rendered prompt, thought instruction included."""
    output: float
    """Thought and response."""
    response: float
    """What the judge reads."""
    pairs: float
    """Share of prompts that give a pair."""
    source: str
    """Where the figures come from."""

    def longest(self, limit: int) -> float:
        """Tokens of the longest output, under a limit of new tokens."""
        return min(LONGEST * self.output, limit)


ASSUMED = Lengths(prompt=250, output=700, response=400, pairs=0.9, source="assumed")
"""UltraFeedback-like prompts (250 ± 200 tokens) and outputs (700 ± 400)."""
MEASURED: dict[Arm, Lengths] = {
    "thought": Lengths(
        prompt=33.6, output=29.6, response=6.3, pairs=0.877, source="measured of the seed model"
    ),
    "direct": Lengths(
        prompt=24.8, output=7.8, response=6.8, pairs=0.466, source="measured of the seed model"
    ),
}
"""The microworld's seed model on 640 prompts, seed 0, eight outputs each."""
RIGHT: dict[Arm, tuple[float, float]] = {"thought": (0.596, 4.31), "direct": (0.661, 0.723)}
"""Of the same outputs: the share that is right, and how alike prompts are in it (`pair_share`)."""


def _of_both_modes(thought: Lengths, direct: Lengths) -> Lengths:
    """Of the hybrid arm, half of whose samples think: the means of the two, and the prompt of the
    former with a sentence more."""
    sentence = len(HYBRID_SENTENCE) / LETTERS_PER_TOKEN
    return Lengths(
        prompt=thought.prompt + sentence,
        output=(thought.output + direct.output) / 2,
        response=(thought.response + direct.response) / 2,
        pairs=(thought.pairs + direct.pairs) / 2,
        source=thought.source,
    )


def expected_lengths(
    recipe: Recipe,
    *,
    like: Path | None = None,
    prompt: float | None = None,
    output: float | None = None,
) -> dict[Arm, Lengths]:
    """Mean tokens of each arm: those of the run `like`, or assumed ones where it is `None`.

    `output` and `prompt` (without a thought instruction) go before both.

    Raises: ValueError if `like` is no run or has no rollouts.
    """
    found: dict[Arm, Lengths] = {arm: _lengths(recipe, arm, like, prompt) for arm in recipe.arms}
    limit = recipe.sampling.max_new_tokens
    for arm, lengths in found.items():
        wanted = min(limit, lengths.output if output is None else output)
        source = lengths.source if prompt is None and output is None else "given"
        share = wanted / lengths.output
        found[arm] = replace(
            lengths, output=wanted, response=lengths.response * share, source=source
        )
    return found


def demonstration_tokens(recipe: Recipe, arm: Arm) -> float:
    """Tokens that the warm start's demonstrations stand before each prompt.

    Raises: ValueError if their file cannot be read.
    """
    assert recipe.warm_start is not None
    ref = StageRef(recipe=recipe, stage="rollouts", arm=arm, index=WARM_START)
    letters = 0
    for each in arm_demonstrations(ref):
        texts = [message.content for message in each.prompt.messages]
        texts += [ref.thought_format.instruction or "", each.thought or "", each.response]
        letters += sum(map(len, texts))
    return letters / LETTERS_PER_TOKEN


def pair_share(mean: float, alike: float, samples: int) -> float:
    """Share of prompts with a right output and a wrong one among so many.

    An output is right with a probability that is Beta-distributed over the prompts, with this mean
    and `alike` as the sum of its parameters. Of the seed model's eight outputs two to six, chosen
    anew, give the same share within 0.005.
    """
    right, wrong = mean * alike, (1 - mean) * alike

    def all_of(parameter: float) -> float:
        # E[p ** samples] under Beta, from logarithms: the gammas themselves overflow.
        ratio = lgamma(parameter + samples) - lgamma(parameter)
        return exp(ratio + lgamma(alike) - lgamma(alike + samples))

    return 1 - all_of(right) - all_of(wrong)


def _lengths(recipe: Recipe, arm: Arm, like: Path | None, prompt: float | None) -> Lengths:
    if arm == "hybrid" and like is None:
        thought, direct = (_lengths(recipe, each, None, prompt) for each in ("thought", "direct"))
        return _of_both_modes(thought, direct)
    asked = StageRef(recipe=recipe, stage="rollouts", arm=arm, index=0).thought_format
    thought_format = DIRECT if arm == "direct" else asked
    instruction = len(thought_format.instruction or "") / LETTERS_PER_TOKEN
    if like is not None:
        found = _of_run(like, arm)
        return found if prompt is None else replace(found, prompt=prompt + instruction)
    if recipe.model.path == MICROWORLD and prompt is None:
        return replace(MEASURED[arm], pairs=pair_share(*RIGHT[arm], recipe.sampling.samples))
    before = ASSUMED.prompt if prompt is None else prompt
    output = ASSUMED.response if arm == "direct" else ASSUMED.output
    return replace(ASSUMED, prompt=before + instruction, output=output)


def _of_run(run: Path, arm: Arm) -> Lengths:
    """What the last iteration with pairs had."""
    recipe = load_run(run)
    for index in reversed(range(recipe.iterations)):
        pairs = StageRef(recipe=recipe, stage="pairs", arm=arm, index=index)
        if pairs.sealed:
            counts = read_manifest(pairs.beside("rollouts")).counts
            records = read_records(pairs.folder, PreferencePair, "pairs")
            if records:
                outputs = float(str(counts["outputs"]))
                return Lengths(
                    prompt=sum(len(pair.prompt_token_ids) for pair in records) / len(records),
                    output=float(str(counts["new_tokens"])) / outputs,
                    response=float(str(counts["mean_response_tokens"])),
                    pairs=len(records) / recipe.prompts_per_iteration,
                    source=f"measured in {run}",
                )
    raise ValueError(
        f"--like: {run} has no finished pairs of the {arm} arm; run one iteration of it first, or "
        "give --prompt-tokens and --output-tokens"
    )
