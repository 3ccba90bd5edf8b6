"""Some columns of a sealed stage's parts, one part at a time.

`store.read_records` gives whole records. The page needs lengths, statuses and scores of every
output of a run but token ids of none, and those are most of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from forethought.storage import sealed_stage as store
from forethought.storage.sealed_stage import read_manifest, sealed_parts


def read_columns(folder: Path, columns: Sequence[str], prefix: str = "") -> Iterator[pa.Table]:
    """The columns of each Parquet part whose name begins with `prefix`; dots reach into records.

    Raises: StageError if the stage is not sealed, or a part is missing or damaged.
    """
    for part in sealed_parts(folder, prefix):
        yield store.read_columns(folder, part, columns)


def read_rows(
    folder: Path,
    columns: Sequence[str],
    prefix: str = "",
    only_prompts: frozenset[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries, of some prompts or of all; `columns` must hold `prompt_id` for some.

    Raises: StageError if the stage is not sealed, or a part is missing or damaged.
    """
    wanted = None if only_prompts is None else pa.array(sorted(only_prompts), pa.string())
    for table in read_columns(folder, columns, prefix):
        if wanted is not None:
            table = table.filter(pc.is_in(table["prompt_id"], value_set=wanted))  # pyright: ignore[reportAttributeAccessIssue]
        yield from table.to_pylist()


def count_rows(folder: Path, prefix: str = "") -> int:
    """Number of records of a sealed stage, read from its manifest alone.

    Raises: StageError if the stage is not sealed or its manifest is damaged.
    """
    parts = read_manifest(folder).parts
    return sum(part.rows or 0 for part in parts if part.name.startswith(prefix))
