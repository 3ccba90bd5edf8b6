"""What a warm start does to a model that never writes a thought format's markers.

A whole `forethought run` of the thought arm with `warm_start` and no iteration, on plain English
prompts that this script makes. The test prompts are of other kinds than the training prompts, so
that what is measured is the format and not the kind of question. Needs the real model: `make
real-model`. What stands behind the run goes over the recipe, as on the command line.

    OMP_NUM_THREADS=1 python benchmarks/warm_start.py runs/warm_start
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
JUDGE = """\
def concise(prompt, response):
    words = len(response.split())
    return 1.0 if 5 <= words <= 80 else 0.0
"""
TRAIN = (
    "What is {thing}?",
    "Why do people like {thing}?",
    "Write two sentences about {thing}.",
    "Give me three facts about {thing}.",
    "How would you explain {thing} to a child?",
    "Name something that is similar to {thing}, and say why.",
    "Write a short advertisement for {thing}.",
    "List two good and two bad sides of {thing}.",
)
TEST = (
    "Write a riddle whose answer is {thing}.",
    "My friend has never heard of {thing}. What should I tell her first?",
    "Compare {thing} with a library.",
    "Which question about {thing} would you ask an expert?",
)
THINGS = (
    "a bicycle", "the moon", "a volcano", "bread", "a piano", "winter", "a passport", "tea",
    "football", "a bridge", "the heart", "a spider", "photosynthesis", "money", "a newspaper",
    "the desert", "a telescope", "chess", "a garden", "electricity", "a whale", "democracy",
    "a train station", "honey", "a dictionary", "sleep", "a lighthouse", "gravity", "a birthday",
    "the internet", "a mirror", "rice", "an island", "a hospital", "music", "a compass", "snow",
    "a bank account", "a robot", "cooking", "the colour blue", "a wheel", "a vaccine", "dreams",
    "a thunderstorm", "a teacher", "paper", "an election", "a camera", "friendship", "salt",
    "a kite", "the alphabet", "a museum", "yoga", "a battery", "a forest", "humour", "an umbrella",
    "a calendar",
)  # fmt: skip


def write_prompts(path: Path, templates: tuple[str, ...], count: int, seed: int) -> None:
    """So many different prompts, as JSON lines."""
    every = [template.format(thing=thing) for template in templates for thing in THINGS]
    chosen = random.Random(seed).sample(every, count)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in chosen))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="a folder that is not there yet")
    parser.add_argument("overrides", nargs="*", help="such as warm_start.learning_rate=2e-5")
    given = parser.parse_args()
    folder = given.run.with_name(given.run.name + "_files")
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / "train.jsonl", TRAIN, 400, 0)
    write_prompts(folder / "test.jsonl", TEST, 200, 1)
    (folder / "concise.py").write_text(JUDGE)
    recipe = {
        "run": str(given.run),
        "model": {"path": str(ROOT / ".real-model")},
        "arms": ["thought"],
        "thought_format": "generic",
        "iterations": 0,
        "prompts": {
            "train": str(folder / "train.jsonl"),
            "test": {"count": 64, "sources": str(folder / "test.jsonl")},
        },
        "sampling": {"max_new_tokens": 256},
        "evaluation": {"attempts": 1},
        "judge": {"type": "verifier", "function": "concise:concise"},
        "warm_start": {"prompts": 64, "epochs": 2, "batch_size": 8, "learning_rate": 1e-4},
        "launch": {"threads": 1},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2))
    words = ["forethought.cli", "run", str(folder / "recipe.json"), *given.overrides]
    subprocess.run([sys.executable, "-m", *words], check=True, env=_finding(folder))
    summary = json.loads((given.run / "summary.json").read_text())
    print(json.dumps(summary["warm_start"], indent=2))


def _finding(folder: Path) -> dict[str, str]:
    """The environment, in which the judge's function is found."""
    path = os.pathsep.join([str(folder.absolute()), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path}


if __name__ == "__main__":
    main()
