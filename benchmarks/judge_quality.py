"""How far judges can be trusted: `forethought evaluate judge` on those that are at hand.

    OMP_NUM_THREADS=1 python benchmarks/judge_quality.py [--model .real-model] [--folder FOLDER]

The microworld's verifier judges what the microworld's seed model wrote to 200 of its test prompts,
four responses each; `gsm8k`, and `--model` as a judge that compares, judge the package's own
prompts. The model is asked for its verdict at once, in few words, so that a small one can do it.
What was measured is kept in FOLDER, and the same command goes on there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console

from forethought.cli.judge_table import show_judge
from forethought.config import SamplePart
from forethought.config.recipe_files import load_part
from forethought.microworld.tasks import generate
from forethought.pipeline.measure_judge import JudgeRequest, evaluate_judge
from forethought.pipeline.on_files import sample_file
from forethought.progress.reporter import Reporter

PROMPTS = 200
SAMPLING = (
    *("model.path=microworld", "sampling.samples=4", "sampling.max_new_tokens=64"),
    "launch.threads=1",
)
PROMPT = """
user: |
  Question: {conversation}{question}
  <answer_a>
  {response_a}
  </answer_a>
  <answer_b>
  {response_b}
  </answer_b>
  Which answer is better? Reply with "A is better" or "B is better" and nothing else.
finish: 'Reply with "A is better" or "B is better" and nothing else.'
verdicts:
  "A is better": {first: 1, second: 0}
  "B is better": {first: 0, second: 1}
"""


def written_by_the_seed(folder: Path, reporter: Reporter) -> Path:
    """A file of the microworld's test prompts with the seed model's responses."""
    prompts, outputs = folder / "prompts.jsonl", folder / "outputs.jsonl"
    rows = [
        {"prompt": task.query, "category": task.category, "reference": task.reference}
        for task in generate("test", PROMPTS, seed=0)
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if not outputs.is_file():
        sample_file(load_part(SamplePart, SAMPLING), prompts, outputs, reporter)
    return outputs


def measure(
    folder: Path, words: tuple[str, ...], reporter: Reporter, responses: Path | None = None
) -> None:
    """Print what is measured of one judge."""
    request = JudgeRequest(
        words=(*words, "launch.threads=1"), output=folder, responses=responses, preferences=None
    )
    show_judge(evaluate_judge(request, reporter), reporter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a chat model")
    parser.add_argument("--folder", type=Path, help="where everything is kept")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(Console())
    verifier = "judge.type=verifier"
    outputs = written_by_the_seed(folder, reporter)
    measure(folder / "microworld", (verifier, "judge.function=microworld"), reporter, outputs)
    measure(folder / "gsm8k", (verifier, "judge.function=gsm8k"), reporter)
    if given.model:
        prompt = folder / "prompt.yaml"
        prompt.write_text(PROMPT, encoding="utf-8")
        words = ("judge.type=pairwise", f"judge.prompt={prompt}", "judge.max_new_tokens=12")
        model = ("judge.engine.type=transformers", f"judge.model.path={given.model}")
        measure(folder / "pairwise", (*words, *model), reporter)


if __name__ == "__main__":
    main()
