"""What the GPU benchmarks share: random models, lengths, a clock that waits, a report.

Nothing is downloaded. The policy is Llama 3 8B's configuration with random weights in bfloat16, the
judge the same with ArmoRM's head. The tokenizer reads bytes; its other tokens are three letters
each and only a model writes them. Outputs end by chance: so many of the vocabulary's tokens end one
that a random model writes 700 tokens on average.

Lengths are lognormal with UltraFeedback's means and deviations: prompts 250 ± 200 tokens, outputs
700 ± 400. `--tiny` is a model of a hundred thousand parameters with a tenth of the lengths, which
runs on a CPU in seconds: for trying the scripts, not for figures.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import itertools
import json
import math
import os
import platform
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from forethought.judging.armorm.armorm_model import ArmoRMModel
from forethought.judging.scoring.kinds import ARMORM
from forethought.planning.devices import DEVICES
from forethought.planning.model_shape import ModelShape, model_shape

CONTROL = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers", "numpy")
SAMPLES = 8
LEAST = 8
"""Tokens of the shortest text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model and the lengths of its texts as (mean, deviation)."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    prompt: tuple[int, int] = (250, 200)
    output: tuple[int, int] = (700, 400)
    limit: int = 2048
    """New tokens of an output at most."""


FULL = Size(vocabulary=128256, hidden=4096, layers=32, heads=32, key_heads=8, inner=14336)
TINY = Size(
    vocabulary=512,
    hidden=64,
    layers=2,
    heads=4,
    key_heads=2,
    inner=128,
    prompt=(25, 20),
    output=(30, 15),
    limit=64,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of a script."""

    size: Size
    device: str
    folder: Path
    """Models are made here, and found again by the next script."""
    rounds: int
    output: Path | None
    arguments: argparse.Namespace

    @property
    def tiny(self) -> bool:
        """Whether figures mean nothing."""
        return self.size is TINY


@contextmanager
def opened(parser: argparse.ArgumentParser, rounds: int) -> Iterator[Bench]:
    """Parse the common arguments, and keep a folder that goes away unless one is named.

    Raises: SystemExit if there is no GPU and `--tiny` is not given.
    """
    parser.add_argument("--tiny", action="store_true", help="try the script on a CPU")
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved runs of each side")
    parser.add_argument("--folder", type=Path, help="keep the random models here")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not arguments.tiny and not torch.cuda.is_available():
        raise SystemExit("error: no GPU; --tiny tries the script on a CPU")
    with tempfile.TemporaryDirectory() as temporary:
        yield Bench(
            size=TINY if arguments.tiny else FULL,
            device="cpu" if arguments.tiny else "cuda",
            folder=arguments.folder or Path(temporary),
            rounds=arguments.rounds,
            output=arguments.output,
            arguments=arguments,
        )


def peak_flops(bench: Bench) -> float | None:
    """Dense bfloat16 operations per second of the GPU, by its maker's datasheet.

    `None` on a CPU, and for a GPU that the table does not have.
    """
    if bench.device == "cpu":
        return None
    name = torch.cuda.get_device_name().lower().replace(" ", "")
    found = [device for device in DEVICES.values() if device.name.removesuffix("-80gb") in name]
    return found[0].flops if found else None


# Models


def make_policy(bench: Bench, layers: int | None = None) -> str:
    """The policy's folder, made if it is not there."""
    size = bench.size
    layers = layers or size.layers
    folder = bench.folder / f"policy_{size.hidden}_{layers}"
    if (folder / "config.json").is_file():
        return str(folder)
    tokenizer = save_tokenizer(folder, size)
    config = _config(size, tokenizer, layers)
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = end_ids(size, tokenizer)
    model.save_pretrained(folder)
    return str(folder)


def make_armorm(bench: Bench) -> str:
    """The judge's folder, made if it is not there."""
    size = bench.size
    folder = bench.folder / f"armorm_{size.hidden}"
    if (folder / "config.json").is_file():
        return str(folder)
    tokenizer = save_tokenizer(folder, size)
    fields = _config(size, tokenizer, size.layers).to_dict() | {
        "architectures": [ARMORM],
        "num_objectives": 19,
        "gating_temperature": 10,
        "gating_hidden_dim": 1024,
        "gating_n_hidden": 3,
    }
    torch.manual_seed(1)
    with torch.device(bench.device):
        network = ArmoRMModel(LlamaConfig(**fields)).to(torch.bfloat16)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(fields | {"dtype": "bfloat16"}))
    return str(folder)


def _config(size: Size, tokenizer: PreTrainedTokenizerFast, layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=8192,
        rope_parameters={"rope_theta": 500_000.0, "rope_type": "default"},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,  # pyright: ignore[reportArgumentType]
        eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
        pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
    )


def save_tokenizer(folder: Path, size: Size) -> PreTrainedTokenizerFast:
    """Bytes, Llama 3's headers, and three letters for every other token."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<pad>", *CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = map("".join, itertools.product(string.ascii_letters, repeat=3))
    words += itertools.islice(letters, size.vocabulary - len(words))
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", *CONTROL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=CONTROL[0],
        eos_token=CONTROL[1],
        pad_token="<pad>",
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(str(folder))
    return fast


def end_ids(size: Size, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Tokens that end an output, so many that one in `output` tokens is of them."""
    count = max(1, round(size.vocabulary / size.output[0]))
    ids = range(size.vocabulary - count, size.vocabulary)
    return [int(str(tokenizer.eos_token_id)), *ids]


def shape(path: str) -> ModelShape:
    """Sizes of the model in a folder, for counting its operations."""
    return model_shape(path)


# Texts


def lengths(size: tuple[int, int], count: int, seed: int) -> list[int]:
    """Lognormal token counts with a mean and a deviation."""
    mean, deviation = size
    variance = math.log(1 + (deviation / mean) ** 2)
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), size=count)
    return [max(LEAST, int(length)) for length in drawn]


def texts(size: tuple[int, int], count: int, seed: int) -> list[str]:
    """Random texts of lognormal lengths, whose letters are a token each."""
    random = np.random.Generator(np.random.PCG64(seed))
    letters = np.array(list(string.ascii_lowercase + " "))
    return [
        "a" + "".join(random.choice(letters, length - 1)) for length in lengths(size, count, seed)
    ]


# Clock, memory, report


def now() -> float:
    """Seconds on a clock, read after the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def free() -> None:
    """Give memory back between two sides, and start a new peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gigabytes() -> float | None:
    """Highest use of the GPU since `free`; `None` on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def fits(action: Callable[[], float]) -> float | None:
    """What the action returns, or `None` if it runs out of memory."""
    try:
        return action()
    except torch.OutOfMemoryError:
        return None
    finally:
        free()


def median(values: list[float]) -> float:
    """The median of the figures of a few runs."""
    return statistics.median(values)


def report(bench: Bench, **results: Any) -> None:
    """Print results and write them with date, command, versions and device."""
    record = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if bench.device == "cuda" else platform.machine(),
        "tiny": bench.tiny,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        **results,
    }
    text = json.dumps(record, indent=2)
    print(text)
    if bench.output is not None:
        bench.output.write_text(text + "\n", encoding="utf-8")
