"""DPO steps on one GPU: LoRA and full fine-tuning at 8B, against TRL's DPOTrainer.

    python benchmarks/gpu/dpo_step.py lora --output lora.json
    python benchmarks/gpu/dpo_step.py full --layers 16 --output full.json
    python benchmarks/gpu/dpo_step.py lora --tiny

Both sides get the same model folder, the same token ids and the same optimizer batches, and pay for
their reference log-probs; timed are whole steps, the first left out. TRL has bfloat16 weights,
precomputed reference log-probs and the fastest of a grid over batch size and checkpointing. Float32
master weights and Adam take 20 bytes a weight, so that full fine-tuning of all 32 layers does not
fit on 141 GB; `--layers` takes as many as do, and `--set` gives the recipe's `training` fields that
save memory.

Model FLOPs utilisation is useful operations per second over the GPU's dense bfloat16 rate (H200:
989 TFLOP/s). Useful: two per weight and position with each prompt counted once, four per channel,
query and visible key, the head where a token is predicted; a backward pass twice the forward, or
once where weights are frozen. Nothing that is computed again counts. `mfu_6n` counts the backward
pass twice for LoRA too, as is common.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import workload
import yaml
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from workload import Bench

from forethought.config import LoraSettings, TrainingConfig
from forethought.planning.work import Tokens, forward_flops
from forethought.training.batches import packed_tokens
from forethought.training.reference import reference_logprobs
from forethought.training.results import StepLog
from forethought.training.train import train
from forethought.types import PairSide, PreferencePair

RANK, ALPHA, RATE = 16, 32, 5e-6
FULL_LAYERS = 16
"""Layers whose float32 states leave room for activations on one H200."""
GRID = ((2, True), (4, False), (2, False), (4, True))
"""TRL's pairs per forward pass, and whether it recomputes activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one side: seconds of each step after the first, and of the reference."""

    steps: list[float]
    reference: float
    losses: list[float]
    peak: float | None

    def pairs_per_second(self, batch: int) -> float:
        """The rate of the median step, of `batch` pairs."""
        return batch / workload.median(self.steps)


class EnoughError(Exception):
    """The steps are measured; a checkpoint is not wanted."""


def make_pairs(bench: Bench, count: int) -> list[PreferencePair]:
    """Random tokens of the workload's lengths."""
    random = np.random.Generator(np.random.PCG64(11))
    size = bench.size
    prompts = workload.lengths(size.prompt, count, 1)
    outputs = workload.lengths(size.output, 2 * count, 2)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(random.integers(300, size.vocabulary, size=length).tolist())

    def side(index: int, length: int) -> PairSide:
        return PairSide(
            sample_index=index,
            token_ids=tokens(min(length, size.limit)),
            response_start=2,
            response_tokens=min(length, size.limit) - 2,
            score=1.0 - index,
            shaped_score=None,
        )

    return [
        PreferencePair(
            prompt_id=f"prompt {i}",
            prompt_token_ids=tokens(prompts[i]),
            chosen=side(0, outputs[2 * i]),
            rejected=side(1, outputs[2 * i + 1]),
            kind="judged",
            margin=1.0,
        )
        for i in range(count)
    ]


def training_config(bench: Bench) -> TrainingConfig:
    """Our settings for one epoch; the fields of `--set` go over them."""
    given = bench.arguments
    fields: dict[str, Any] = {
        "batch_size": given.batch,
        "epochs": 1,
        "learning_rate": RATE,
        "schedule": "constant",
        "warmup_ratio": 0,
        "gradient_checkpointing": given.checkpointing,
        "tokens_per_microbatch": given.tokens,
    }
    if given.kind == "lora":
        fields["lora"] = LoraSettings(rank=RANK, alpha=ALPHA)
    for word in given.set:
        key, _, value = word.partition("=")
        fields[key] = yaml.safe_load(value)
    return TrainingConfig.model_validate(fields)


def run_ours(bench: Bench, model: str, pairs: list[PreferencePair]) -> Run:
    """The recipe's own trainer, stopped before it writes a checkpoint."""
    workload.free()
    config = training_config(bench)
    start = workload.now()
    reference = reference_logprobs(model, pairs, config, device=bench.device)
    middle = workload.now()
    workload.free()
    logs: list[StepLog] = []

    def on_step(log: StepLog) -> None:
        logs.append(log)
        if len(logs) == -(-len(pairs) // config.batch_size):
            raise EnoughError

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EnoughError):
        train(
            model=model,
            pairs=pairs,
            reference=reference,
            config=config,
            seed=0,
            directory=Path(folder),
            device=bench.device,
            on_step=on_step,
        )
    peak = workload.peak_gigabytes()
    return Run(
        steps=[log.seconds for log in logs[1:]],
        reference=middle - start,
        losses=[log.loss for log in logs],
        peak=peak,
    )


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer on token ids: tokenising is left out of its time."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class StepClock(TrainerCallback):
    """When each optimizer step has ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(workload.now())


def run_trl(
    bench: Bench, model: str, pairs: list[PreferencePair], device_batch: int, checkpointing: bool
) -> Run:
    """TRL in bfloat16 with precomputed reference log-probs."""
    workload.free()
    run = str(uuid.uuid4())
    rows = [
        {
            "prompt_ids": list(pair.prompt_token_ids),
            "chosen_ids": list(pair.chosen.token_ids),
            "rejected_ids": list(pair.rejected.token_ids),
            # Reference log-probs are cached by the data's hash; each run pays for its own.
            "run": run,
        }
        for pair in sorted(pairs, key=packed_tokens)
    ]
    clock, folder = StepClock(), tempfile.mkdtemp()
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    start = workload.now()
    trainer = TokenisedDPOTrainer(
        model=model,
        peft_config=lora if bench.arguments.kind == "lora" else None,
        args=DPOConfig(
            output_dir=folder,
            use_cpu=bench.device == "cpu",
            bf16=True,
            max_length=None,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            per_device_train_batch_size=device_batch,
            gradient_accumulation_steps=bench.arguments.batch // device_batch,
            gradient_checkpointing=checkpointing,
            precompute_ref_log_probs=True,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            model_init_kwargs={"dtype": torch.bfloat16},
        ),
        train_dataset=Dataset.from_list(rows),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    middle = workload.now()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = workload.peak_gigabytes()
    shutil.rmtree(folder)
    steps = [after - before for before, after in itertools.pairwise(clock.ends)]
    return Run(steps=steps, reference=middle - start, losses=losses, peak=peak)


def choose(bench: Bench, model: str, pairs: list[PreferencePair]) -> tuple[int, bool]:
    """TRL's fastest setting on two steps: pairs per forward pass, and whether it recomputes.

    Raises: SystemExit if every setting runs out of memory.
    """
    batch = bench.arguments.batch
    found: list[tuple[float, int, bool]] = []
    for device_batch, checkpointing in GRID[:1] if bench.tiny else GRID:
        if device_batch > batch:
            continue

        def trial(size: int = device_batch, again: bool = checkpointing) -> float:
            return workload.median(run_trl(bench, model, pairs[: 2 * batch], size, again).steps)

        seconds = workload.fits(trial)
        if seconds is not None:
            found.append((seconds, device_batch, checkpointing))
    if not found:
        raise SystemExit("error: TRL runs out of memory at every setting; lower --layers")
    _, device_batch, checkpointing = min(found)
    return device_batch, checkpointing


def useful_flops(model: str, pairs: list[PreferencePair]) -> float:
    """Operations of a forward pass over the pairs that no implementation avoids."""
    seen = predicted = 0.0
    for pair in pairs:
        prompt = len(pair.prompt_token_ids)
        outputs = [len(side.token_ids) for side in (pair.chosen, pair.rejected)]
        seen += prompt**2 / 2 + sum(prompt * n + n**2 / 2 for n in outputs)
        predicted += sum(outputs)
    read = sum(map(packed_tokens, pairs))
    return forward_flops(workload.shape(model), Tokens(read=read, seen=seen, predicted=predicted))


def compare(bench: Bench) -> None:
    """Runs in turns, then the report."""
    given = bench.arguments
    most = FULL_LAYERS if given.kind == "full" and not bench.tiny else None
    model = workload.make_policy(bench, given.layers or most)
    pairs = make_pairs(bench, given.batch * given.steps)
    device_batch, checkpointing = choose(bench, model, pairs)
    ours: list[Run] = []
    theirs: list[Run] = []
    for _ in range(bench.rounds):
        ours.append(run_ours(bench, model, pairs))
        theirs.append(run_trl(bench, model, pairs, device_batch, checkpointing))
    forward = useful_flops(model, pairs) / given.steps
    rates = [[run.pairs_per_second(given.batch) for run in side] for side in (ours, theirs)]
    tokens = sum(map(packed_tokens, pairs)) / len(pairs)
    rate, peak = workload.median(rates[0]), workload.peak_flops(bench)
    per_second = rate / given.batch * forward
    passes = 2 if given.kind == "lora" else 3
    workload.report(
        bench,
        what=f"DPO step, {given.kind}",
        parameters=workload.shape(model).parameters,
        training=training_config(bench).model_dump(mode="json"),
        trl={"per_device_train_batch_size": device_batch, "gradient_checkpointing": checkpointing},
        ours_pairs_per_second=rates[0],
        trl_pairs_per_second=rates[1],
        ratio=workload.median([a / b for a, b in zip(*rates, strict=True)]),
        ours_packed_tokens_per_second=rate * tokens,
        reference_seconds={
            "ours": [run.reference for run in ours],
            "trl_with_loading": [run.reference for run in theirs],
        },
        mfu=None if peak is None else passes * per_second / peak,
        mfu_6n=None if peak is None else 3 * per_second / peak,
        peak_gigabytes={"ours": ours[-1].peak, "trl": theirs[-1].peak},
        losses={"ours": ours[-1].losses, "trl": theirs[-1].losses},
    )


def main() -> None:
    """Parse, then compare."""
    parser = argparse.ArgumentParser(description="DPO steps against TRL")
    parser.add_argument("kind", choices=("lora", "full"))
    parser.add_argument(
        "--layers", type=int, help="of the model; 32 for lora, 16 for full, 2 with --tiny"
    )
    parser.add_argument("--batch", type=int, default=16, help="pairs of an optimizer step")
    parser.add_argument("--steps", type=int, default=4, help="steps, the first not timed")
    parser.add_argument("--tokens", type=int, default=16384, help="our tokens_per_microbatch")
    parser.add_argument(
        "--checkpointing", action=argparse.BooleanOptionalAction, default=True, help="ours"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="training fields")
    disable_progress_bar()
    with workload.opened(parser, rounds=2) as bench:
        compare(bench)


if __name__ == "__main__":
    main()
