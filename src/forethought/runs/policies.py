"""Which policy is meant, by the words of a command; each is known by its evaluation.

`RUN/ARM/NUMBER` names one of a run (0 is the seed, or what the warm start made of it; without a
number the last), as a number, `best` or `last` does beside a run and an arm. Other words are a
model folder, a hub name or `microworld`; a folder brings its own `thought_format.json`.
"""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Literal

from forethought.config import ModelConfig, ModelSource, Recipe
from forethought.config.base import ARMS
from forethought.config.recipe_files import load_run
from forethought.models import loading
from forethought.runs.comparison import first_policy
from forethought.runs.layout import StageRef
from forethought.runs.schedule import evaluation_refs
from forethought.storage.sealed_stage import is_sealed, read_manifest
from forethought.thoughts import FORMAT_FILE, ThoughtFormat, load_format
from forethought.types import Arm

Which = int | Literal["best", "last"]
"""A policy's number (0 is the seed), the best by test score among the trained, or the last."""


def is_run(path: Path) -> bool:
    """Whether a folder is a run directory."""
    config = path / "config.json"
    if not config.is_file():
        return False
    # A model's folder has a config.json, too.
    return b"prompts_per_iteration" in config.read_bytes()


def find_run_policy(word: str) -> StageRef | None:
    """The run's policy that a word names, if it names one.

    Raises: ValueError if it names a run but no policy of it, or one that is not there yet.
    """
    path = Path(word)
    if is_run(path):
        raise ValueError(
            f"{word} is a run; name a policy of it as {path}/ARM/NUMBER, such as {path}/thought/1"
        )
    folder, number = (path, None) if is_run(path.parent) else (path.parent, path.name)
    run, arm = folder.parent, folder.name
    if not is_run(run) or arm not in ARMS:
        return None
    recipe = load_run(run)
    there = _policies(recipe, arm) if arm in recipe.arms else {}
    if number is None:
        number = str(max(there, default=0))
    if not number.isdigit() or int(number) not in there:
        raise ValueError(
            f"{word}: the {arm} arm of {run} has policies {list(there)}, and {number!r} is none"
        )
    return there[int(number)]


def choose(run: Path, *, arm: Arm, which: Which) -> StageRef:
    """The policy of a run's arm that is meant.

    Raises: ValueError if the run has no such arm or policy; the message names what is there.
    """
    recipe = load_run(run)
    if arm not in recipe.arms:
        raise ValueError(f"arm: {run} has no arm {arm!r}; it has {', '.join(recipe.arms)}")
    there = _policies(recipe, arm)
    if isinstance(which, int):
        if which not in there:
            raise _absent(f"no policy {which}", run, there)
        return there[which]
    trained = [ref for ref in there.values() if ref.policy_stage is not None]
    if not trained:
        raise _absent("no trained policy yet", run, there)
    return trained[-1] if which == "last" else _best(trained)


def at_run_policy(model: ModelConfig) -> ModelConfig:
    """A recipe's model; where its path names a run's policy, the weights of that one.

    Raises: ValueError if it names a run but no policy of it; StageError if its weights were
    dropped, or are not as they were sealed.
    """
    try:
        found = find_run_policy(model.path)
    except ValueError as error:
        raise ValueError(f"model.path: {error}") from None
    if found is None:
        return model
    found.check_policy()
    source = found.policy.source
    own = {
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "long_context": source.long_context,
    }
    return model.model_copy(update={"path": source.path} | own)


def weights_and_format(
    model: ModelSource, found: StageRef | None, otherwise: str
) -> tuple[ModelSource, ThoughtFormat]:
    """What the weights are loaded by: those of the run's policy, if one was found, or the model's.

    With them their format; `otherwise` names that of a folder without.

    Raises: ValueError if a format cannot be read.
    """
    if found is not None:
        found.check_policy()
        return found.policy.source, found.thought_format
    own = Path(loading.resolve(model)) / FORMAT_FILE
    return model, load_format(str(own) if own.is_file() else otherwise)


def _policies(recipe: Recipe, arm: Arm) -> dict[int, StageRef]:
    """Those of an arm that are there, by number."""
    return {
        ref.index: ref
        for ref in evaluation_refs(recipe, arm)
        if ref.policy_stage is None or is_sealed(ref.policy_stage)
    }


def _absent(what: str, run: Path, there: dict[int, StageRef]) -> ValueError:
    if not there:
        return ValueError(
            f"policy: {run} has {what}, and its warm start is not done yet; `forethought run` with "
            "the same recipe goes on"
        )
    arm, recipe = there[0].arm, there[0].recipe
    names = ", ".join(f"{i} (the {first_policy(recipe)})" if i == 0 else str(i) for i in there)
    if recipe.iterations == 0 and recipe.warm_start is None:
        return ValueError(
            f"policy: {run} trains nothing (iterations: 0), so there is none but 0, which is "
            f"{recipe.model.path} as it is; `forethought init` writes a recipe that trains it"
        )
    return ValueError(
        f"policy: {run} has {what} in its {arm} arm; there: {names}, of "
        f"{recipe.iterations} iterations. `forethought run` with the same recipe goes on"
    )


def _best(trained: list[StageRef]) -> StageRef:
    scores: dict[int, float] = {}
    for ref in trained:
        if ref.sealed:
            score = read_manifest(ref.folder).counts["test_score"]
            if isinstance(score, float):
                scores[ref.index] = score
    if not scores:
        numbers = ", ".join(str(ref.index) for ref in trained)
        raise ValueError(
            f"policy: no trained policy of {trained[0].recipe.run} has a test score in its "
            f"{trained[0].arm} arm, so none is the best; ask for last or for a number, there: "
            f"{numbers}"
        )
    # Of equal ones the earlier.
    return max(trained, key=lambda ref: (scores.get(ref.index, -inf), -ref.index))
