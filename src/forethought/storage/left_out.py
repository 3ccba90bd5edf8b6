"""Prompts that a stage went on without: written beside its parts, counted in its manifest.

One prompt that cannot be sampled (longer than the context, refused by the chat template or the
server) is left out alone. Each is in a `left_out….json` of the stage with its reason and, where it
is known, the file and line it came from; the manifest's `left_out` has their number and the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from forethought.progress.reporter import Reporter
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    Count,
    StageError,
    is_sealed,
    read_json,
)
from forethought.types import LeftOut, Prompt, Unsampled

SHOWN = 3
"""Examples in a manifest, and in a line on the terminal."""
Places = Callable[[], Mapping[str, str]]
"""Where prompts came from, by id; asked only when something is left out."""


def note(stage: Stage, part: str, left_out: Sequence[LeftOut]) -> None:
    """Keep what a part of a stage goes without; an earlier attempt's list of it is replaced."""
    if left_out:
        stage.write_json(file_of(part), [asdict(omission) for omission in left_out])
    else:
        stage.remove(file_of(part))


def file_of(part: str) -> str:
    """Name of the list that goes with a part."""
    return f"left_out_{part}.json"


def noted(folder: Path) -> list[LeftOut]:
    """What a stage goes without, each prompt once."""
    found: dict[str, LeftOut] = {}
    for path in sorted(folder.glob("left_out*.json")):
        for row in read_json(path):
            found.setdefault(row["prompt_id"], LeftOut(**row))
    return list(found.values())


def of_run(run: Path) -> dict[str, list[LeftOut]]:
    """What each sealed stage of a run goes without, by its folder in the run directory."""
    folders = sorted({path.parent for path in run.rglob("left_out*.json")})
    return {
        folder.relative_to(run).as_posix(): noted(folder) for folder in folders if is_sealed(folder)
    }


def counts(folder: Path) -> dict[str, Count]:
    """What the manifest says of it."""
    found = noted(folder)
    first: list[Count] = [
        {"where": omission.where, "reason": omission.reason} for omission in found[:SHOWN]
    ]
    return {"left_out": {"count": len(found), "first": first}}


def say(stage: Stage, reporter: Reporter) -> None:
    """One line for the reader, if anything is left out."""
    said = words(stage.folder)
    if said:
        reporter.say(f"  {said} (all: {stage.folder}/left_out_*.json)")


def words(folder: Path) -> str:
    """The same in a few words for a progress line; empty where nothing is left out."""
    found = noted(folder)
    if not found:
        return ""
    some = "1 prompt is" if len(found) == 1 else f"{len(found)} prompts are"
    return f"{some} left out, the first {found[0].where}: {found[0].reason}"


def placed(
    unsampled: Sequence[Unsampled], prompts: Sequence[Prompt], places: Places
) -> list[LeftOut]:
    """With the place that each of the prompts came from, or its source and its first words."""
    if not unsampled:
        return []
    known, named = places(), {prompt.prompt_id: prompt for prompt in prompts}
    return [
        LeftOut(
            prompt_id=refusal.prompt_id,
            where=known.get(refusal.prompt_id) or _named(named[refusal.prompt_id]),
            reason=refusal.reason,
        )
        for refusal in unsampled
    ]


def _named(prompt: Prompt) -> str:
    return f"{prompt.source}, {prompt.messages[-1].content!r:.60}"


def none_sampled(label: str, left_out: Sequence[LeftOut]) -> StageError:
    """The error where nothing is left."""
    first = left_out[0]
    return StageError(
        f"{label}: none of {len(left_out)} prompts can be sampled; the first, {first.where}: "
        f"{first.reason}"
    )
