"""Prompts that a stage went on without: written beside its parts, counted in its manifest.

One prompt that cannot be sampled (longer than the context, refused by the chat template or the
server) is left out alone. Each is in a `left_out….json` of the stage with its reason and, where it
is known, the file and line it came from; the manifest's `left_out` has their number and the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from forethought.store import Count, Stage, read_json, read_records, write_json
from forethought.types import LeftOut, PromptPlace, Unsampled

SHOWN = 3
"""Examples in a manifest, and in a line on the terminal."""
PLACES = "places"
"""The part of the stage `prompts` that says where each prompt came from."""


def note(stage: Stage, part: str, left_out: Sequence[LeftOut]) -> None:
    """Keep what a part of a stage goes without; an earlier attempt's list of it is replaced."""
    path = stage.folder / f"left_out_{part}.json"
    if left_out:
        write_json(path, [asdict(one) for one in left_out])
    else:
        path.unlink(missing_ok=True)


def noted(folder: Path) -> list[LeftOut]:
    """What a stage goes without, each prompt once."""
    found: dict[str, LeftOut] = {}
    for path in sorted(folder.glob("left_out*.json")):
        for one in read_json(path):
            found.setdefault(one["prompt_id"], LeftOut(**one))
    return list(found.values())


def counts(folder: Path) -> dict[str, Count]:
    """What the manifest says of it."""
    found = noted(folder)
    first: list[Count] = [{"where": one.where, "reason": one.reason} for one in found[:SHOWN]]
    return {"left_out": {"count": len(found), "first": first}}


def words(folder: Path) -> str:
    """The same in a few words for a progress line; empty where nothing is left out."""
    found = noted(folder)
    if not found:
        return ""
    some = "1 prompt is" if len(found) == 1 else f"{len(found)} prompts are"
    return f"{some} left out, the first {found[0].where}: {found[0].reason}"


def placed(unsampled: Sequence[Unsampled], places: Mapping[str, str]) -> list[LeftOut]:
    """With the place that each came from."""
    return [
        LeftOut(
            prompt_id=one.prompt_id,
            where=places.get(one.prompt_id, f"prompt {one.prompt_id}"),
            reason=one.reason,
        )
        for one in unsampled
    ]


def places_of(prompts: Path) -> dict[str, str]:
    """Where each prompt of a run came from; `prompts` is the folder of that stage."""
    return {one.prompt_id: one.where for one in read_records(prompts, PromptPlace, PLACES)}
