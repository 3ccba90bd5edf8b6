"""How much of what DPO learns is left in the policy that is sampled, on a real model.

Pairs are two outputs of the model, of 128 tokens at most, to each prompt of a file. Each setting
trains on the same pairs in the same order, and `margin_kept` is read from its log as in every run:
the mean log-ratio margin of the weights as they are sampled, over that of the weights as trained.

    OMP_NUM_THREADS=2 python benchmarks/margin.py FOLDER prompts.jsonl [--pairs 48] [--epochs 4]

FOLDER holds the model, in bfloat16; lines of the file have a `prompt`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from training_workloads import written_pairs

from forethought.config import TrainingConfig
from forethought.training.reference import reference_logprobs
from forethought.training.train import train

BATCH = 16
SETTINGS: dict[str, dict[str, Any]] = {
    "full, default rate": {},
    "full, 3e-7": {"learning_rate": 3e-7},
    "LoRA, default rate": {"lora": {}},
    "LoRA, 3e-7": {"lora": {}, "learning_rate": 3e-7},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a model in bfloat16")
    parser.add_argument("texts", type=Path, help="JSONL file of prompts")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    pairs = written_pairs(options.model, options.texts, options.pairs)
    steps = options.epochs * -(-len(pairs) // BATCH)
    print(f"{len(pairs)} pairs, {steps} steps, torch {torch.__version__}")
    for name, setting in SETTINGS.items():
        for kept_as in ("masters", "original"):
            config = TrainingConfig.model_validate(
                {
                    "batch_size": BATCH,
                    "epochs": options.epochs,
                    "checkpoint_dtype": kept_as,
                    **setting,
                }
            )
            with tempfile.TemporaryDirectory() as folder:
                result = train(
                    model=options.model,
                    pairs=pairs,
                    reference=reference_logprobs(options.model, pairs, config, device="cpu"),
                    config=config,
                    seed=0,
                    directory=Path(folder),
                    device="cpu",
                )
            shares = " ".join(
                "none" if share is None else f"{share:.3f}" for share in result.margin_kept
            )
            print(f"{name:20} {kept_as:9} rate {config.learning_rate:.0e}  {shares}", flush=True)


if __name__ == "__main__":
    main()
