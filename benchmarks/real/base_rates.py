"""What the seed scores on the prompts of each family before any training.

    python benchmarks/real/base_rates.py runs/real/prompts runs/real/rates --demonstrated

Samples the first validation prompts of each family in the direct format, bare or, as the warm start
does, behind the demonstrations without their thoughts. An output without a response scores 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from forethought.evaluation.intervals import mean_result

HERE = Path(__file__).parent
SETTINGS = ["thought_format=direct", "sampling.samples=4", "sampling.temperature=0.8"]
SETTINGS += ["sampling.max_new_tokens=96", "sampling.rows=128"]


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.open()]


def shown(row: Mapping[str, Any], *, demonstrated: bool) -> dict[str, Any]:
    """The record with its prompt as a conversation, behind the demonstrations or alone."""
    turns = read(HERE / "demonstrations.jsonl") if demonstrated else []
    messages = [
        {"role": role, "content": turn[column]}
        for turn in turns
        for role, column in (("user", "prompt"), ("assistant", "response"))
    ]
    rest = {key: value for key, value in row.items() if key != "prompt"}
    return rest | {"messages": [*messages, {"role": "user", "content": row["prompt"]}]}


def main() -> None:
    """Sample, judge and print a line a family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path, help="the folder that prompts.py wrote")
    parser.add_argument("output", type=Path, help="an empty or new folder")
    parser.add_argument("--count", type=int, default=16, help="prompts of each family")
    parser.add_argument("--demonstrated", action="store_true")
    parser.add_argument("--model", default=".real-model")
    arguments = parser.parse_args()
    rows = sorted(read(arguments.prompts / "validation.jsonl"), key=lambda row: row["category"])
    asked = [
        shown(row, demonstrated=arguments.demonstrated)
        for _, family in groupby(rows, key=lambda row: row["category"])
        for row in list(family)[: arguments.count]
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    given, outputs, scores = (
        arguments.output / f"{name}.jsonl" for name in ("prompts", "outputs", "scores")
    )
    given.write_text("".join(f"{json.dumps(row)}\n" for row in asked))
    command = [sys.executable, "-m", "forethought.cli"]
    model = f"model.path={arguments.model}"
    subprocess.run([*command, "sample", given, outputs, model, *SETTINGS], check=True)
    judge = ["judge.type=verifier", "judge.function=constraints"]
    subprocess.run([*command, "judge", outputs, scores, *judge], check=True)
    by_family = defaultdict(list)
    for row in read(scores):
        each = [score or 0.0 for score in row["scores"] or [0.0]]
        by_family[row["category"]].append(sum(each) / len(each))
    for family, means in by_family.items():
        rate = mean_result(family, means)
        low, high = rate.interval or (rate.value, rate.value)
        print(f"{family:<14} {rate.value:.3f} [{low:.3f}, {high:.3f}] {rate.count} prompts")


if __name__ == "__main__":
    main()
