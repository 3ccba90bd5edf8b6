"""A run that is killed anywhere ends with the same pairs, weights and figures, bit for bit.

A child is forked from this process, which has everything imported already, and killed with SIGKILL
at a random moment; then another goes on with the same run directory, until one comes to the end.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_run import start

from forethought.config.recipe_files import load_recipe
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.types import PreferencePair

ROOT = Path(__file__).parent.parent
SMALL = [
    "iterations=2",
    "prompts_per_iteration=32",
    "prompts.train=[{type: microworld, split: train, count: 80}]",
    "prompts.validation={count: 8, sources: [{type: microworld, split: validation, count: 8}]}",
    "prompts.test={count: 8, sources: [{type: microworld, split: test, count: 8}]}",
    "sampling.samples=4",
    "sampling.part_size=8",
    "sampling.max_new_tokens=48",
    "training.epochs=2",
    "training.batch_size=4",
    "training.save_every=2",
    "measures.probe={prompts: 6, after: last}",
    "launch.threads=1",
]
KILLS = 25
NEAR_ONLINE = [
    "iterations=4",
    "prompts_per_iteration=16",
    "training.checkpoint_dtype=float32",
    "measures.probe=null",
    "measures.win_rate=null",
    "evaluation.every=2",
]


def small_recipe(run, *words):
    return load_recipe([str(ROOT / "recipes" / "quickstart.yaml"), f"run={run}", *SMALL, *words])


def finish(recipe):
    _, status = os.waitpid(start(recipe), 0)
    assert status == 0


def run_in_a_storm(recipe, rng, most, longest):
    """Start the run and kill it again and again, at most so often; the number of kills."""
    for kills in range(most):
        pid = start(recipe)
        time.sleep(rng.uniform(0.0, longest))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return kills
    finish(recipe)
    return most


def content(run):
    """Everything that must be equal: pairs, policies and measures of every arm and iteration."""
    pairs = {
        str(folder.relative_to(run)): read_records(folder, PreferencePair, "pairs")
        for folder in sorted(run.glob("*/iteration_*/pairs"))
    }
    weights = {
        str(path.relative_to(run)): load_file(path)
        for path in sorted(run.glob("*/iteration_*/training/epoch_*/model.safetensors"))
    }
    figures = {
        str(folder.relative_to(run)): read_manifest(folder).counts["results"]
        for folder in sorted(run.glob("measures/*/*/policy_*"))
    }
    return pairs, weights, figures


@pytest.mark.slow
def test_killed_with_engines_kept_and_policies_dropped_gives_the_same_run(tmp_path):
    """What is in memory when it is killed is never what the next attempt needs."""
    calm = small_recipe(tmp_path / "calm", *NEAR_ONLINE)
    began = time.monotonic()
    finish(calm)
    whole = time.monotonic() - began
    near_online = [*NEAR_ONLINE, "launch.keep_engines=true", "keep={every: 2}"]
    stormy = small_recipe(tmp_path / "stormy", *near_online)
    kills = run_in_a_storm(stormy, random.Random(21), 8, whole / 8)
    assert kills > 1
    expected, found = content(tmp_path / "calm")[0], content(tmp_path / "stormy")[0]
    assert len(found) == 8
    assert found == expected
    for arm in ("thought", "direct"):
        for policy in (2, 4):
            name = f"{arm}/iteration_{policy - 1}/selection/policy/model.safetensors"
            ours, calms = load_file(stormy.run / name), load_file(calm.run / name)
            assert all(tensor.equal(calms[key]) for key, tensor in ours.items()), name
        assert len(list(stormy.run.glob(f"{arm}/iteration_*/selection/policy"))) == 2


@pytest.mark.slow
def test_killed_at_random_moments_gives_the_same_run(tmp_path):
    calm = small_recipe(tmp_path / "calm")
    began = time.monotonic()
    finish(calm)
    whole = time.monotonic() - began

    expected_pairs, expected_weights, expected_figures = content(tmp_path / "calm")
    assert all(expected_pairs.values())
    assert len(expected_figures) == 4
    assert len(expected_weights) == 8
    rng = random.Random(20)
    kills = storms = 0
    while kills < KILLS:
        # How far a run comes between two kills is up to the machine: where it ends early, another.
        stormy = tmp_path / f"stormy_{storms}"
        storms += 1
        kills += run_in_a_storm(small_recipe(stormy), rng, KILLS - kills, 2.5 * whole / KILLS)
        pairs, weights, figures = content(stormy)
        assert pairs == expected_pairs
        assert figures == expected_figures
        assert weights.keys() == expected_weights.keys()
        for name, tensors in weights.items():
            for key, tensor in tensors.items():
                assert tensor.equal(expected_weights[name][key]), f"{name}: {key}"
