"""Whether a drafted recipe begins with a warm start: for a model that does not write the format.

Known where `forethought compare` has asked this model the same prompts. Else its size tells: small
models seldom write a format's markers because an instruction asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forethought.config import Recipe
from forethought.config.recipe_files import load_run
from forethought.config.warm_start import WarmStartConfig
from forethought.drafting.facts import Facts
from forethought.models import loading
from forethought.runs.comparison import MOSTLY
from forethought.runs.layout import StageRef
from forethought.stages.policies.demonstrated import look_at_demonstrations
from forethought.storage.sealed_stage import read_manifest
from forethought.thoughts import load_format

SMALL = 3e9
"""Parameters below which a model is taught the format unless it was seen to write it."""
SMALLEST = 1e9
"""Parameters below which the default learning rate is taken for too low."""
HIGH_RATE = 1e-4
"""What taught SmolLM2-135M the format where the default did not (benchmarks/README.md)."""
ENOUGH = 64
"""Prompts that did for it."""
STEPS = 8
"""Optimizer steps of an epoch in which each prompt has one output to train on, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartChoice:
    """A warm start, or none, and what spoke for it.

    Example: `WarmStartChoice(section={"prompts": 64, "batch_size": 8, "learning_rate": 1e-4},
    reason="The model has 135 million parameters, and …")`
    """

    section: dict[str, Any] | None
    """For `warm_start`; `None` where there is to be none."""
    reason: str
    """Whole sentences; none where nothing has to be said."""

    @property
    def prompts(self) -> int:
        """Training prompts that iterations do not get."""
        return 0 if self.section is None else self.section["prompts"]


def choose_warm_start(facts: Facts, recipe: Recipe, left: int) -> WarmStartChoice:
    """Decide for a model that has `left` prompts to train on; `recipe` is one without a warm start.

    Raises: ValueError if the comparison of these two cannot be read.
    """
    asked = load_format(facts.thinking.thought_format).instruction is not None
    if not asked or facts.model == loading.MICROWORLD:
        return WarmStartChoice(section=None, reason="")
    size = loading.skeleton(facts.model, dtype="bfloat16").num_parameters()
    seen = _seen(facts)
    if size >= SMALL if seen is None else seen <= MOSTLY:
        return WarmStartChoice(section=None, reason=_why_none(facts, seen))
    section = _section(size, left)
    warm = recipe.model_copy(update={"warm_start": WarmStartConfig.model_validate(section)})
    try:
        look_at_demonstrations(warm)
    except ValueError as error:
        return WarmStartChoice(section=None, reason=f"A warm start cannot teach it these: {error}.")
    return WarmStartChoice(section=section, reason=_why(facts, section, size, seen))


def _why_none(facts: Facts, seen: float | None) -> str:
    if seen is not None:
        return (
            f"In {facts.comparison} {seen:.0%} of its outputs lack these: no warm start is needed."
        )
    return (
        "`forethought compare` says how many of its outputs lack these; if most do, let a warm "
        "start teach it the format first (warm_start: {}, docs/warm-start.md)."
    )


def _why(facts: Facts, section: dict[str, Any], size: float, seen: float | None) -> str:
    if seen is None:
        found = (
            f"The model has {_in_words(size)} parameters, and small ones seldom write these words "
            "because they are asked to. Without them there is no response to learn from."
        )
        check = (
            " `forethought compare` says how many of its outputs have no response; if few, leave "
            "this section out."
        )
    else:
        found = f"In {facts.comparison} {seen:.0%} of the model's outputs have no response."
        check = ""
    rate = ""
    if "learning_rate" in section:
        rate = " The default rate is for models of a billion parameters and more."
    return (
        f"{found} So each arm first teaches itself the format, with {section['prompts']} of the "
        f"prompts to train on (docs/warm-start.md).{check}{rate}"
    )


def warm_start_advice(recipe: Recipe, model: str, prompts: str) -> str | None:
    """What to say after a comparison in which most of the thought arm's outputs did not parse."""
    share = _unparsed(recipe)
    by_template = any(recipe.model.of_arm("thought").template.values())
    if share is None or share <= MOSTLY or by_template:
        return None
    return (
        f"`forethought init {model} {prompts}` writes a recipe with that warm start "
        "(docs/warm-start.md)."
    )


def _seen(facts: Facts) -> float | None:
    """The share of outputs without a response in a comparison of the same model and format."""
    if not (facts.comparison / "config.json").is_file():
        return None
    recipe = load_run(facts.comparison)
    asked = recipe.model.path, recipe.thought_format
    return _unparsed(recipe) if asked == (facts.model, facts.thinking.thought_format) else None


def _unparsed(recipe: Recipe) -> float | None:
    """Of the plain model's thought arm; `None` where that is not there."""
    ref = StageRef(recipe=recipe, stage="evaluation", arm="thought", index=0)
    if recipe.warm_start is not None or not ref.sealed:
        return None
    share = read_manifest(ref.folder).counts["parse_failures"]
    assert isinstance(share, float)
    return share


def _section(size: float, left: int) -> dict[str, Any]:
    """Half of few prompts, a quarter of many."""
    default = WarmStartConfig()
    prompts = min(default.prompts, max(left // 4, min(ENOUGH, left // 2)))
    section: dict[str, Any] = {"prompts": prompts}
    if (batch_size := max(2, prompts // STEPS)) < default.batch_size:
        section["batch_size"] = batch_size
    if size < SMALLEST:
        section["learning_rate"] = HIGH_RATE
    return section


def _in_words(size: float) -> str:
    return f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.0f} million"
