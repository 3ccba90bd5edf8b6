"""Pairs per second of an epoch of DPO against TRL's DPOTrainer, from model folder to checkpoint.

Both sides get the same model folder and the same tokenised pairs, pay for their reference
log-probs, train one epoch with the same optimizer batches' size, and write a checkpoint. TRL runs
at the best of a grid (number type, precomputed reference, batch size, attention kernel, length
grouping, pairs sorted by length) and at its defaults. Runs are interleaved; the last line is the
smaller of the workloads' median ratios.

    OMP_NUM_THREADS=2 python benchmarks/training.py [--rounds 3] [--clock cpu]
    OMP_NUM_THREADS=2 python benchmarks/training.py --model FOLDER --texts prompts.jsonl

With `--model` the pairs are two outputs of that model to each prompt of the file.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch
import transformers
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from training_workloads import (
    QUICKSTART,
    ULTRAFEEDBACK,
    Workload,
    make_model,
    make_pairs,
    real_workload,
    useful_flops,
    written_pairs,
)
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from forethought.config import TrainingConfig
from forethought.models.number_types import product_type
from forethought.training.batches import packed_tokens
from forethought.training.reference import reference_logprobs
from forethought.training.results import StepLog
from forethought.training.train import train
from forethought.types import PreferencePair

LEARNING_RATE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds of one run, of all of it and of the part after the reference log-probs."""

    whole: float
    training: float
    losses: list[float]


def run_ours(model: str, pairs: list[PreferencePair], batch_size: int, clock: Clock) -> Measured:
    """One epoch of the recipe's own trainer, from the model's folder to a checkpoint."""
    config = TrainingConfig(
        batch_size=batch_size,
        epochs=1,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        warmup_ratio=0,
    )
    logs: list[StepLog] = []
    with tempfile.TemporaryDirectory() as folder:
        start = clock()
        reference = reference_logprobs(model, pairs, config, device="cpu")
        middle = clock()
        train(
            model=model,
            pairs=pairs,
            reference=reference,
            config=config,
            seed=0,
            directory=Path(folder),
            device="cpu",
            on_step=logs.append,
        )
        stop = clock()
    return Measured(whole=stop - start, training=stop - middle, losses=[x.loss for x in logs])


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer on token ids: tokenising is left out of its time."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def run_trl(
    model: str,
    pairs: list[PreferencePair],
    clock: Clock,
    *,
    attention: str | None = None,
    sort: bool = False,
    **options: Any,
) -> Measured:
    """One epoch of TRL's trainer, from the model's folder to a checkpoint.

    `options` are fields of its `DPOConfig`; `sort` has the pairs in order of length.
    """
    if sort:
        pairs = sorted(pairs, key=packed_tokens)
    run = str(uuid.uuid4())
    rows = [
        {
            "prompt_ids": list(pair.prompt_token_ids),
            "chosen_ids": list(pair.chosen.token_ids),
            "rejected_ids": list(pair.rejected.token_ids),
            "length": packed_tokens(pair),
            # Reference log-probs are cached on disk by the data's hash; each run pays for its own.
            "run": run,
        }
        for pair in pairs
    ]
    folder = tempfile.mkdtemp()
    start = clock()
    trainer = TokenisedDPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=folder,
            use_cpu=True,
            max_length=None,
            learning_rate=LEARNING_RATE,
            num_train_epochs=1,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            # Else the column of lengths is dropped before the sampler that groups by length.
            remove_unused_columns=False,
            model_init_kwargs=_loading(attention, options) if attention else None,
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
    )
    middle = clock()
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(f"{folder}/final")
    stop = clock()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    shutil.rmtree(folder)
    return Measured(whole=stop - start, training=stop - middle, losses=losses)


Clock = Callable[[], float]


def _loading(attention: str, options: dict[str, Any]) -> dict[str, Any]:
    # Left alone, TRL loads a bfloat16 checkpoint's weights as they are.
    kind = {} if options["bf16"] else {"dtype": "float32"}
    return {"attn_implementation": attention} | kind


def best_options(
    device_batch: int, batch_size: int, attention: str, *, half: bool, grouped: bool = True
) -> dict:
    """A point of TRL's grid as options of `run_trl`; `half` means bfloat16."""
    return {
        "attention": attention,
        "sort": True,
        "bf16": half,
        "gradient_checkpointing": False,
        "precompute_ref_log_probs": True,
        "per_device_train_batch_size": device_batch,
        "gradient_accumulation_steps": batch_size // device_batch,
        "train_sampling_strategy": "group_by_length" if grouped else "random",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
    }


def choose_best(
    workload: Workload, model: str, pairs: list[PreferencePair], clock: Clock, size: int
) -> dict:
    """TRL's fastest settings on one optimizer batch, looked for on its first pairs."""
    sample = pairs[:size]
    found = []

    def measure(options: dict) -> None:
        # The number in the middle decides between equal times: dictionaries have no order.
        found.append((run_trl(model, sample, clock, **options).whole, len(found), options))

    # Where the CPU has no kernels for bfloat16 it is many times slower; the grid is then float32's.
    for half in (True, False):
        few = pairs[:2]
        options = best_options(1, 2, "sdpa", half=half)
        found.append((run_trl(model, few, clock, **options).whole, len(found), options))
    half = min(found)[2]["bf16"]
    found.clear()
    for attention in ("sdpa", "eager"):
        for device_batch in (batch for batch in workload.device_batches if batch <= size):
            measure(best_options(device_batch, size, attention, half=half))
    fastest = min(found)[2]
    ungrouped = fastest | {"train_sampling_strategy": "random"}
    measure(ungrouped)
    for seconds, _, options in sorted(found)[:3]:
        print(
            f"  TRL {seconds:6.2f} s for {len(sample)} pairs: "
            f"{'bfloat16' if options['bf16'] else 'float32'}, {options['attention']}, "
            f"{options['per_device_train_batch_size']} x {options['gradient_accumulation_steps']}, "
            f"{options['train_sampling_strategy']}"
        )
    best = min(found)[2]
    rows = best["per_device_train_batch_size"]
    return best | {"gradient_accumulation_steps": workload.batch_size // rows}


def matrix_rate(workload: Workload, clock: Clock) -> float:
    """Operations per second of this CPU on the workload's MLP product, in bfloat16 where it has
    that and else in float32."""
    inner = workload.mlp
    products = product_type(torch.bfloat16, "cpu")
    left = torch.randn(4096, workload.hidden, dtype=products)
    right = torch.randn(workload.hidden, inner, dtype=products)
    rates = []
    for _ in range(20):
        start = clock()
        for _ in range(4):
            torch.mm(left, right)
        rates.append(4 * 2 * 4096 * workload.hidden * inner / (clock() - start))
    # The first four warm up.
    return statistics.median(rates[4:])


def high_water() -> int:
    """Peak resident kB of this process; getrusage would count what its parent had before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _peak_child(
    queue: Any, ours: bool, pairs: list[PreferencePair], model: str, options: dict
) -> None:
    _quiet()
    before = high_water()
    if ours:
        run_ours(model, pairs, len(pairs), time.perf_counter)
    else:
        run_trl(model, pairs, time.perf_counter, **options)
    queue.put((high_water() - before) / 1024)


def peak_memory(ours: bool, pairs: list[PreferencePair], model: str, options: dict) -> float:
    """MiB that one optimizer batch adds to a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_peak_child, args=(queue, ours, pairs, model, options))
    child.start()
    peak = queue.get(timeout=600)
    child.join()
    return peak


def compare(
    workload: Workload,
    pairs: list[PreferencePair],
    rounds: int,
    clock: Clock,
    memory: bool,
    with_defaults: bool,
    grid_pairs: int | None,
) -> tuple[float, float]:
    """Print one workload's numbers; the median ratios to TRL's best and to its defaults, which is
    NaN where these are left out."""
    print(f"\n{workload.name}: {workload.pairs} pairs in batches of {workload.batch_size}")
    folder = Path(tempfile.mkdtemp())
    model = make_model(workload, folder)
    run_ours(model, pairs[: workload.batch_size], workload.batch_size, clock)
    options = choose_best(workload, model, pairs, clock, grid_pairs or workload.batch_size)
    ours, best, defaults = [], [], []
    for turn in range(rounds):
        ours.append(run_ours(model, pairs, workload.batch_size, clock))
        best.append(run_trl(model, pairs, clock, **options))
        # Defaults are several times slower; their ratio needs fewer repetitions.
        if with_defaults and turn < max(1, rounds - 1):
            defaults.append(run_trl(model, pairs, clock))
    rate = matrix_rate(workload, clock)
    _print_runs(workload, pairs, ours, best, defaults, rate)
    if memory:
        for name, is_ours in (("ours", True), ("TRL best", False)):
            peak = peak_memory(is_ours, pairs[: workload.batch_size], model, options)
            print(f"  peak memory of a batch, {name:9s} {peak:6.0f} MiB")
    shutil.rmtree(folder)
    to_best = statistics.median(b.whole / a.whole for a, b in zip(ours, best, strict=True))
    ratios = [b.whole / a.whole for a, b in zip(ours, defaults, strict=False)]
    return to_best, statistics.median(ratios) if ratios else math.nan


def _print_runs(
    workload: Workload,
    pairs: list[PreferencePair],
    ours: list[Measured],
    best: list[Measured],
    defaults: list[Measured],
    rate: float,
) -> None:
    for name, runs in (("ours", ours), ("TRL best", best), ("TRL default", defaults)):
        if not runs:
            continue
        whole = statistics.median(run.whole for run in runs)
        training = statistics.median(run.training for run in runs)
        print(
            f"  {name:12s} {len(pairs) / whole:8.2f} pairs/s with reference, "
            f"{len(pairs) / training:8.2f} without; whole runs "
            f"{', '.join(f'{run.whole:.2f}' for run in runs)} s"
        )
    reference, training = useful_flops(workload, pairs)
    floor = (reference + training) / rate
    whole = statistics.median(run.whole for run in ours)
    print(
        f"  floor: {(reference + training) / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s "
        f"({product_type(torch.bfloat16, 'cpu')} products) = {floor:.2f} s; ours {whole:.2f} s, "
        f"{floor / whole:.0%} utilisation"
    )
    print("  losses ours ", " ".join(f"{loss:.4f}" for loss in ours[0].losses))
    print("  losses TRL  ", " ".join(f"{loss:.4f}" for loss in best[0].losses))
    gap = abs(statistics.mean(ours[0].losses) - statistics.mean(best[0].losses))
    print(f"  mean loss apart by {gap:.4f} (batches are drawn in different orders)")


def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bar()


def main() -> None:
    """Run both workloads."""
    parser = argparse.ArgumentParser(description="DPO against TRL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--workload", choices=("quickstart", "ultrafeedback"))
    parser.add_argument("--model", help="a real model's folder, instead of the workloads")
    parser.add_argument("--texts", type=Path, help="JSONL file of prompts for it")
    parser.add_argument("--pairs", type=int, default=64, help="pairs of the real model")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--grid-pairs", type=int, help="look for TRL's best on so many pairs only")
    parser.add_argument("--no-defaults", action="store_true", help="leave TRL's defaults out")
    arguments = parser.parse_args()
    _quiet()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    print(f"{torch.get_num_threads()} threads, {arguments.clock} time, torch {torch.__version__}")
    chosen = {"quickstart": [QUICKSTART], "ultrafeedback": [ULTRAFEEDBACK]}
    workloads = chosen.get(arguments.workload, [QUICKSTART, ULTRAFEEDBACK])
    jobs = [(workload, make_pairs(workload, workload.pairs)) for workload in workloads]
    if arguments.model:
        if arguments.texts is None:
            parser.error("--model needs --texts")
        pairs = written_pairs(arguments.model, arguments.texts, arguments.pairs)
        jobs = [(real_workload(arguments.model, len(pairs)), pairs)]
    ratios = [
        compare(
            workload,
            pairs,
            arguments.rounds,
            clock,
            not arguments.no_memory,
            not arguments.no_defaults,
            arguments.grid_pairs,
        )
        for workload, pairs in jobs
    ]
    print()
    for best, defaults in ratios:
        print(f"ratio to best {best:.2f}, to defaults {defaults:.2f}")
    print(f"ratio to defaults: {min(defaults for _, defaults in ratios):.2f}")
    print(f"ratio: {min(best for best, _ in ratios):.2f}")


if __name__ == "__main__":
    main()
