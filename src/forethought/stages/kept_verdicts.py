"""Verdicts on parts that were judged before their stage was sealed, until `judgements` takes them.

They lie in that stage's scratch folder under a hash of what decides them: the bytes of the part,
the prompts, the judge's settings and weights. So a verdict on anything else is never found, and
what is not found is judged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from forethought.judging.crew import verdict_identity
from forethought.records import from_table, to_table
from forethought.stages.place import Place
from forethought.store import (
    SCRATCH,
    content_hash,
    read_manifest,
    sha256_file,
    write_json,
    write_table,
)
from forethought.types import ScoredGroup, Unjudged

VERSION = 2
"""Moves when a judge is shown something else of a part, or something else of its answer is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartVerdicts:
    """What is written of a part's verdicts.

    Example: `PartVerdicts(scored=[ScoredGroup(…)], unjudged=[], found=0)`
    """

    scored: list[ScoredGroup]
    unjudged: list[Unjudged]
    found: int
    """Answers of the judge that were in the cache."""


class KeptVerdicts:
    """Example: `KeptVerdicts(Place(recipe=recipe, stage="judgements", arm="thought", index=0))`"""

    def __init__(self, place: Place) -> None:
        """Raises: ValueError if the judge's model is not there."""
        self._folder = place.folder / SCRATCH
        self._context = {
            "version": VERSION,
            "prompts": read_manifest(place.beside("prompts")).digest,
            "judge": verdict_identity(place.recipe.judge),
        }

    def keep(self, part: str, verdicts: PartVerdicts) -> None:
        """Keep what was said of the part with this SHA-256."""
        key = self._key(part)
        files = self._files(key)
        tables = [to_table(verdicts.scored, ScoredGroup), to_table(verdicts.unjudged, Unjudged)]
        for path, table in zip(files, tables, strict=True):
            write_table(path, table)
        # Written last: it stands for all three.
        mark = {"found": verdicts.found, "files": [sha256_file(path) for path in files]}
        write_json(self._folder / f"{key}.json", mark)

    def find(self, part: str) -> PartVerdicts | None:
        """What was kept of it; `None` if nothing was, or it is damaged."""
        key = self._key(part)
        files = self._files(key)
        try:
            mark = json.loads((self._folder / f"{key}.json").read_bytes())
            if mark["files"] != [sha256_file(path) for path in files]:
                return None
        except (OSError, ValueError):
            return None
        scored, unjudged = map(pq.read_table, files)
        return PartVerdicts(
            scored=from_table(scored, ScoredGroup),
            unjudged=from_table(unjudged, Unjudged),
            found=mark["found"],
        )

    def _files(self, key: str) -> list[Path]:
        return [self._folder / f"{key}_{what}.parquet" for what in ("scored", "unjudged")]

    def _key(self, part: str) -> str:
        return content_hash({**self._context, "part": part})
