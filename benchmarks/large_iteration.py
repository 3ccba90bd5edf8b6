"""What one process reads and writes of an iteration: seconds and peak memory by stage.

Outputs are random tokens under lengths like UltraFeedback's, so that no model is run: left are the
records, which one process handles however many devices there are. `write` unpickles and writes
parts, as the driver does when workers draw them; `rollouts` is a resumed stage that has only to
count; then the responses are read for a judge that costs nothing, and pairs are chosen and read
back, as each process of a training does.

    OMP_NUM_THREADS=1 python benchmarks/large_iteration.py
    OMP_NUM_THREADS=1 python benchmarks/large_iteration.py --prompts 10000
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from forethought.config import Recipe
from forethought.config.recipe_files import load_recipe
from forethought.pipeline.launch import launch
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.stages.table import STAGES, inputs
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_records
from forethought.types import (
    Completion,
    Message,
    ParsedOutput,
    ParseStatus,
    PreferencePair,
    Prompt,
    Rollout,
)

SAMPLES, PART = 8, 256
PROMPT, OUTPUT, RESPONSE = 250, 700, 400
"""Tokens."""
LETTERS = 4.5
"""Of a token's text."""
VOCABULARY = 128_000
FAILING = 25
"""One output in so many has no response."""


def score(prompt: Prompt, response: str) -> float:
    """A judge without a model."""
    return float(len(response) % 7)


def ref(recipe: Recipe, stage: str) -> StageRef:
    """A stage of the first iteration."""
    return StageRef(recipe=recipe, stage=stage, arm="thought", index=0)


def opened(recipe: Recipe, name: str) -> Stage:
    """A stage as the pipeline opens it."""
    where, kind = ref(recipe, name), STAGES[name]
    return Stage(
        where.folder,
        name=name,
        version=kind.version,
        config=kind.configure(where),
        inputs=inputs(where),
    )


def write_prompts(recipe: Recipe) -> None:
    """Seal as many prompts as the iteration takes."""
    stage = opened(recipe, "prompts")
    text = "word " * int(PROMPT * LETTERS / 5)
    prompts = [
        Prompt(
            prompt_id=f"{number:016x}",
            messages=(Message(role="user", content=f"{number} {text}"),),
            category=None,
            source="random",
            reference=None,
        )
        for number in range(recipe.prompts_per_iteration)
    ]
    stage.write_records("train", prompts, Prompt)
    stage.write_records("validation", prompts[:1], Prompt)
    stage.seal({"train": len(prompts)})


def write_rollouts(recipe: Recipe) -> float:
    """Write the parts of an iteration that is sampled and not yet counted.

    Returns the processor seconds of what the driver does; making the outputs is not in them.
    """
    seconds = 0.0
    stage = opened(recipe, "rollouts")
    random = np.random.Generator(np.random.PCG64(0))
    for part, start in enumerate(range(0, recipe.prompts_per_iteration, PART)):
        stop = min(start + PART, recipe.prompts_per_iteration)
        made = [
            rollout(random, number, index)
            for number in range(start, stop)
            for index in range(SAMPLES)
        ]
        sent = pickle.dumps(made, protocol=5)
        del made
        begun = time.process_time()
        stage.write_records(f"part_{part:05d}", pickle.loads(sent), Rollout)
        seconds += time.process_time() - begun
    return seconds


def rollout(random: np.random.Generator, number: int, index: int) -> Rollout:
    """An output of about `OUTPUT` tokens, the first of them thought."""
    length = int(OUTPUT * random.uniform(0.4, 1.6))
    whole = bool(random.integers(FAILING))
    start = length * (OUTPUT - RESPONSE) // OUTPUT if whole else length
    text = "word " * int(length * LETTERS / 5)
    cut = int(start * LETTERS)
    return Rollout(
        prompt_id=f"{number:016x}",
        sample_index=index,
        prompt_token_ids=tuple(random.integers(VOCABULARY, size=PROMPT).tolist()),
        completion=Completion(
            text=text,
            token_ids=tuple(random.integers(VOCABULARY, size=length).tolist()),
            finish_reason="stop",
        ),
        parsed=ParsedOutput(
            status=ParseStatus.COMPLETE if whole else ParseStatus.NO_RESPONSE,
            thought=text[:cut],
            response=text[cut:] if whole else None,
            response_offset=cut if whole else None,
        ),
        response_start=start,
        response_tokens=length - start,
    )


def run_stage(recipe: Recipe, name: str) -> None:
    """Run a stage as the pipeline does."""
    launch(ref(recipe, name), Reporter(Console(quiet=True)))


def read_pairs(recipe: Recipe) -> None:
    """Read what each process of a training reads first."""
    read_records(ref(recipe, "pairs").folder, PreferencePair, "pairs")


def report(name: str, work: Callable[..., float | None], *words: object) -> None:
    """Do the work in a process of its own; print its seconds, and how far memory rose meanwhile.

    A work that returns seconds has timed itself.
    """
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_measured, args=(queue, work, words))
    process.start()
    seconds, memory = queue.get()
    process.join()
    print(f"{name:12s} {seconds:7.2f} s  {memory / 1e6:8.0f} MB more at its peak", flush=True)


def _measured(queue, work: Callable[..., float | None], words: tuple[object, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    given = work(*words)
    seconds = time.process_time() - start if given is None else given
    queue.put((seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


def main() -> None:
    """Make an iteration, then every stage of one process."""
    parser = argparse.ArgumentParser(description="Records of a large iteration, by stage")
    parser.add_argument("--prompts", type=int, default=2500, help=f"{SAMPLES} outputs each")
    given = parser.parse_args()
    quickstart = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(
            [
                str(quickstart),
                f"run={folder}/run",
                f"prompts_per_iteration={given.prompts}",
                "arms=[thought]",
                "iterations=1",
                f"sampling.part_size={PART}",
                "judge={type: verifier, function: 'large_iteration:score'}",
            ]
        )
        print(f"{given.prompts} prompts, {SAMPLES * given.prompts} outputs, processor seconds")
        write_prompts(recipe)
        report("write", write_rollouts, recipe)
        for name in ("rollouts", "judgements", "pairs"):
            report(name, run_stage, recipe, name)
        report("read pairs", read_pairs, recipe)


if __name__ == "__main__":
    main()
