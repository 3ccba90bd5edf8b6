"""Plain-English prompts that a program grades, where thinking first may have something to do.

    python benchmarks/real/prompts.py runs/real/prompts --seed 0

writes `train.jsonl` with 2,048 prompts, 512 for the warm start and 1,536 for iterations,
`validation.jsonl` with 200 and `test.jsonl` with 800, of four families in equal shares, and
`traces.jsonl` with 416 more of the last three, worked out with thought and response. All are graded
by the verifier `constraints`:

- `writing`: short texts with two to four constraints;
- `lists`: sort, filter or rewrite a short list;
- `look_ups`: two hops in a passage of five sentences;
- `word_problems`: two small steps.

A quarter of the test prompts are made from templates that no other split has; their category ends
in `_new_template`. Equal templates never have the same fillers twice, so no prompt comes again in
another split, not even with other numbers or in another order where these are not what is asked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from lists import LISTS, NEW_LISTS
from look_ups import LOOK_UPS, NEW_LOOK_UPS
from tasks import Templates
from word_problems import NEW_PROBLEMS, PROBLEMS
from writing import NEW_WRITING, WRITING

SIZES = {"train": 512, "validation": 50, "test": 150}
"""Prompts of each family from the templates that are trained on."""
TRACES = {"writing": 0, "lists": 160, "look_ups": 160, "word_problems": 96}
"""More of them, with thought and response; no program writes the texts of the first family."""
NEW_TEMPLATES = 50
"""Test prompts of each family from the others."""
TRIES = 2000
"""Draws until a template counts as exhausted."""

FAMILIES: Mapping[str, tuple[Templates, Templates]] = {
    "writing": (WRITING, NEW_WRITING),
    "lists": (LISTS, NEW_LISTS),
    "look_ups": (LOOK_UPS, NEW_LOOK_UPS),
    "word_problems": (PROBLEMS, NEW_PROBLEMS),
}
"""Templates that are trained on, and those that are not."""


def records(rng: Random, category: str, templates: Templates) -> Iterator[dict[str, Any]]:
    """Prompts of each template in turn, as records of a file, none of them twice."""
    seen: set[object] = set()
    for name in cycle(templates):
        drawn = (templates[name](rng) for _ in range(TRIES))
        task = next((task for task in drawn if (name, task.fillers) not in seen), None)
        if task is None:
            raise ValueError(f"{name} has too few prompts; give it more words or numbers")
        seen.add((name, task.fillers))
        worked = {"thought": task.thought, "response": task.response} if task.response else {}
        yield {
            "prompt": task.prompt,
            "reference": task.constraints,
            "category": category,
            "template": name,
            **worked,
        }


def unworked(record: dict[str, Any]) -> dict[str, Any]:
    """The record without what a program would answer."""
    return {key: value for key, value in record.items() if key not in ("thought", "response")}


def splits(seed: int) -> dict[str, list[dict[str, Any]]]:
    """All three files' records; equal seeds give equal ones."""
    found: dict[str, list[dict[str, Any]]] = {split: [] for split in (*SIZES, "traces")}
    for family, (trained, new) in FAMILIES.items():
        made = records(Random(f"{seed} {family}"), family, trained)
        for split, size in SIZES.items():
            found[split] += map(unworked, islice(made, size))
        found["traces"] += islice(made, TRACES[family])
        unseen = records(Random(f"{seed} {family} new"), f"{family}_new_template", new)
        found["test"] += map(unworked, islice(unseen, NEW_TEMPLATES))
    for split, rows in found.items():
        Random(f"{seed} {split}").shuffle(rows)
    return found


def main() -> None:
    """Write the files; another seed's are not written over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    texts = {
        arguments.folder / f"{split}.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows)
        for split, rows in splits(arguments.seed).items()
    }
    for path, text in texts.items():
        if path.exists() and path.read_text() != text:
            raise SystemExit(f"{path} holds other prompts; move it away or name another folder")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
        print(f"{path}: {len(text.splitlines())} prompts")


if __name__ == "__main__":
    main()
