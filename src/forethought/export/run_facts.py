"""What a card says of a run: numbers out of its sealed stages, names without this machine's paths.

A card is published, so a folder or file of the recipe is named by its last part only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forethought.config import DatasetPrompts, FilePrompts, MicroworldPrompts, PromptSource, Recipe
from forethought.models.loading import MICROWORLD
from forethought.runs.layout import StageRef
from forethought.runs.schedule import prompts_ref, sealed_measures, warm_start_refs
from forethought.storage.sealed_stage import read_manifest, read_object
from forethought.types import Arm

PATH = re.compile(r"(?<![^\s(])(?:[~.]{0,2}/)(?:[^\s(),/]+/)*([^\s(),/]+)")
"""A path of this machine inside a text; its last part is the group."""


def public_name(name: str) -> str:
    """A hub's name as it is, a folder or file by its last part."""
    return name if hub_name(name) else Path(name).name


def hub_name(name: str) -> bool:
    """Whether a recipe's name is one of the hub's, `organisation/name`, and no local path."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and name[0] not in "./~" and not Path(name).exists()


def judge_name(recipe: Recipe) -> str:
    """The judge in a few words, without folders of this machine."""
    return PATH.sub(r"\1", recipe.judge.title)


def seed_name(recipe: Recipe) -> str:
    """The name of the model that training started from."""
    if recipe.model.path == MICROWORLD:
        return "the microworld's seed model, shipped with forethought"
    return public_name(recipe.model.path)


def source_names(recipe: Recipe) -> list[str]:
    """Where the training prompts came from, a phrase for each source."""
    return [_source(source) for source in recipe.prompts.train]


def hub_datasets(recipe: Recipe) -> list[str]:
    """Names of the sources that lie on the hub, for the card's front matter."""
    return [
        source.name
        for source in recipe.prompts.train
        if isinstance(source, DatasetPrompts) and hub_name(source.name)
    ]


def _source(source: PromptSource) -> str:
    match source:
        case MicroworldPrompts():
            return f"the generated microworld, {source.count} prompts of its {source.split} split"
        case FilePrompts():
            return f"the file {source.name}"
        case DatasetPrompts():
            return f"{public_name(source.name)}, split {source.split}"


def evaluations(recipe: Recipe) -> list[dict[str, Any]]:
    """Test figures of every evaluated policy of every arm, the seed first.

    Raises: StageError if a sealed stage's manifest is damaged.
    """
    rows = []
    for policy in range(recipe.iterations + 1):
        for arm in recipe.arms:
            ref = StageRef(recipe=recipe, stage="evaluation", arm=arm, index=policy)
            if ref.sealed:
                counts: dict[str, Any] = dict(read_manifest(ref.folder).counts)
                rows.append({"policy": policy, "arm": arm} | counts)
    return rows


def iterations(recipe: Recipe, arm: Arm, policy: int) -> list[dict[str, Any]]:
    """What each iteration behind a policy sampled, paired, trained and chose.

    Raises: StageError if one of them is not sealed.
    """
    rows = []
    for number in range(policy):
        row: dict[str, Any] = {"number": number}
        for stage in ("rollouts", "pairs", "training", "selection"):
            ref = StageRef(recipe=recipe, stage=stage, arm=arm, index=number)
            row[stage] = dict(read_manifest(ref.folder).counts)
        scores = row["selection"]["scores"]
        chosen = row["selection"]["chosen_epoch"]
        row["score"] = next((score["score"] for score in scores if score["epoch"] == chosen), None)
        rows.append(row)
    return rows


def measures(recipe: Recipe, arm: Arm, policy: int) -> list[dict[str, Any]]:
    """Results of every sealed measure of the policy; those by category are left to the report."""
    rows = []
    for ref in sealed_measures(recipe):
        if (ref.arm, ref.index) == (arm, policy):
            results: Any = read_manifest(ref.folder).counts.get("results", [])
            rows += [
                {"measure": ref.stage} | result for result in results if result["category"] is None
            ]
    return rows


def digests(recipe: Recipe, arm: Arm, policy: int) -> Iterator[tuple[str, str]]:
    """Stage folder and digest of all that led to the policy."""
    refs = [prompts_ref(recipe)]
    refs += warm_start_refs(recipe, arm)
    for number in range(policy):
        for stage in ("pairs", "training", "selection"):
            refs.append(StageRef(recipe=recipe, stage=stage, arm=arm, index=number))
    if recipe.prompts.test is not None:
        refs.append(StageRef(recipe=recipe, stage="evaluation", arm=arm, index=policy))
    for ref in refs:
        if ref.sealed:
            yield ref.name, read_manifest(ref.folder).digest


def attempts(recipe: Recipe) -> list[dict[str, Any]]:
    """Provenance of every attempt that took time, or of all where none did."""
    found = read_object(recipe.run / "run.json")["attempts"]
    return [attempt for attempt in found if attempt["seconds"] > 0] or found


def seed_licence(recipe: Recipe) -> str | None:
    """The licence that the seed's own card declares, where it lies in a folder."""
    from huggingface_hub import ModelCard

    from forethought.models.loading import resolve

    card = Path(resolve(recipe.model.source)) / "README.md"
    if not card.is_file():
        return None
    declared = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    return declared if isinstance(declared, str) else None
