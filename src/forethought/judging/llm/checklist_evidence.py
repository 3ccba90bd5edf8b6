"""What a checklist judge leaves behind its scores: every item and all verdicts on it.

A JSON object with a line for each item, so that it can be read as it is:

    {"scores": [0.75, 0.25], "items": [
    {"item": "It names a river.", "weight": 3, "by": "judge", "counts": true,
     "verdicts": ["yes", "no"], "reasons": ["It names the Vistula. [[yes]]", "…"]}]}

A verdict is `yes`, `no`, `cannot tell`, a share where a verifier gave one, or null where there is
none; the reason then says why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from forethought.judging.llm.checklist_items import Item
from forethought.judging.llm.verdicts import NoVerdict, Verdict, ending
from forethought.progress.harmless import harmless

REASON_CHARACTERS = 200
EVIDENCE_CHARACTERS = 6000
"""All reasons of a prompt together; with many items or responses each gets less."""
LEAST_CHARACTERS = 40
"""A shorter end of a reason tells nothing and is left out."""
WORDS = {1.0: "yes", 0.0: "no", None: "cannot tell"}

Met = float | None
"""How far a response meets an item, 0 to 1; `None` where it cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemVerdicts:
    """Example: `ItemVerdicts(item=Item(…), counts=True, verdicts=[Verdict(…), NoVerdict(…)])`"""

    item: Item
    counts: bool
    """Whether it is part of the scores."""
    verdicts: Sequence[Verdict[Met] | NoVerdict]
    """One per response."""


def written(rows: Sequence[ItemVerdicts], scores: Sequence[float | None]) -> str:
    """The evidence of a prompt."""
    share = EVIDENCE_CHARACTERS // max(1, len(rows) * len(scores))
    room = min(REASON_CHARACTERS, share) if share >= LEAST_CHARACTERS else 0
    lines = [
        json.dumps(
            {
                "item": row.item.text,
                "weight": row.item.weight,
                "by": row.item.verifier or "judge",
                "counts": row.counts,
                "verdicts": [_word(verdict) for verdict in row.verdicts],
                "reasons": [
                    ending(each.reason if isinstance(each, NoVerdict) else each.said, room)
                    for each in row.verdicts
                ],
            },
            ensure_ascii=False,
        )
        for row in rows
    ]
    items = ",\n".join(lines)
    return f'{{"scores": {json.dumps(list(scores))}, "items": [\n{items}]}}'


def _word(verdict: Verdict[Met] | NoVerdict) -> str | float | None:
    if isinstance(verdict, NoVerdict):
        return None
    return WORDS.get(verdict.value, verdict.value)


def explanation(evidence: str) -> Table:
    """A row per item with its weight and the verdict on each response.

    Raises: ValueError if this is not the evidence of a checklist judge.
    """
    items, scores = _read(evidence)
    title = "Checklist: score = weight of the items met / weight of all"
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("item", overflow="fold")
    table.add_column("weight", justify="right", no_wrap=True)
    for index in range(len(scores)):
        table.add_column(f"response {index}", justify="right", no_wrap=True)
    for row in items:
        by = "" if row["by"] == "judge" else f" ({row['by']})"
        aside = "" if row["counts"] else " (does not count: not all verdicts could be read)"
        cells = ("none" if each is None else str(each) for each in row["verdicts"])
        words = escape(harmless(f"{row['item']}{by}{aside}"))
        table.add_row(words, f"{row['weight']:g}", *cells)
    table.add_section()
    table.add_row("score", "", *("none" if each is None else f"{each:.3g}" for each in scores))
    return table


def _read(evidence: str) -> tuple[list[dict[str, Any]], list[float | None]]:
    try:
        content = json.loads(evidence)
        items, scores = content["items"], content["scores"]
        if all(len(row["verdicts"]) == len(scores) and row["item"] for row in items):
            return items, scores
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"this is not the evidence of a checklist judge: {evidence!r:.120}")
