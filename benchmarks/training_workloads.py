"""What the trainers of `training.py` train on: models, pairs, and the arithmetic they ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forethought.config import ModelConfig, TransformersEngine
from forethought.decoding.request import SamplingParams
from forethought.sampling.base import one_prompt
from forethought.sampling.open import open_sampler
from forethought.training.batches import packed_tokens
from forethought.types import Message, PairSide, PreferencePair, SampleRequest

VOCABULARY = 768


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Model size and lengths; `prompt` and `output` are mean and deviation of token counts."""

    name: str
    hidden: int
    layers: int
    prompt: tuple[int, int]
    output: tuple[int, int]
    pairs: int
    batch_size: int
    device_batches: tuple[int, ...]
    model: str | None = None
    """A real model's folder; `None` makes a random one of this size."""
    inner: int | None = None
    heads: int | None = None
    """Width of all query heads."""
    kv_heads: int | None = None
    """Width of all key heads."""
    vocabulary: int = VOCABULARY

    @property
    def mlp(self) -> int:
        """Width of the MLP; 8/3 of the hidden size, in steps of 32, where none is named."""
        return self.inner or round(self.hidden * 8 / 3 / 32) * 32


QUICKSTART = Workload(
    name="quickstart lengths",
    hidden=128,
    layers=5,
    prompt=(75, 10),
    output=(45, 20),
    pairs=256,
    batch_size=64,
    device_batches=(4, 8, 16, 32),
)
ULTRAFEEDBACK = Workload(
    name="UltraFeedback lengths",
    hidden=256,
    layers=4,
    prompt=(250, 200),
    output=(700, 400),
    pairs=16,
    batch_size=8,
    device_batches=(1, 2, 4),
)


def real_workload(model: str, pairs: int) -> Workload:
    """The shape of a real model; its pairs are those of `written_pairs`."""
    config = AutoConfig.from_pretrained(model)
    return Workload(
        name=Path(model).name,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        prompt=(0, 0),
        output=(0, 0),
        pairs=pairs,
        batch_size=min(16, pairs),
        device_batches=tuple(size for size in (1, 2, 4, 8) if size <= min(16, pairs)),
        model=model,
        inner=config.intermediate_size,
        heads=config.num_attention_heads * config.head_dim,
        kv_heads=config.num_key_value_heads * config.head_dim,
        vocabulary=config.vocab_size,
    )


def written_pairs(model: str, texts: Path, count: int) -> list[PreferencePair]:
    """Two outputs of the model, of 128 tokens at most, to each prompt of a JSONL file."""
    lines = texts.read_text(encoding="utf-8").splitlines()[:count]
    requests = [
        SampleRequest(
            prompt_id=str(index),
            messages=(Message(role="user", content=json.loads(line)["prompt"]),),
            seeds=(2 * index, 2 * index + 1),
        )
        for index, line in enumerate(lines)
    ]
    params = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=128)
    config = ModelConfig(path=model, dtype="bfloat16", device="cpu")
    with open_sampler(TransformersEngine(), model=config, params=params) as sampler:
        drawn = [one_prompt(result) for result in sampler.sample(requests)]
    return [
        PreferencePair(
            prompt_id=sampled.prompt_id,
            prompt_token_ids=sampled.prompt_token_ids,
            chosen=make_side(0, sampled.completions[0].token_ids),
            rejected=make_side(1, sampled.completions[1].token_ids),
            kind="judged",
            margin=1.0,
        )
        for sampled in drawn
    ]


def make_side(index: int, ids: tuple[int, ...]) -> PairSide:
    """One side of a pair, its first half taken for thought."""
    return PairSide(
        sample_index=index,
        token_ids=ids,
        response_start=len(ids) // 2,
        response_tokens=len(ids) - len(ids) // 2,
        score=1.0 - index,
        shaped_score=None,
    )


def make_pairs(workload: Workload, count: int) -> list[PreferencePair]:
    """Random tokens with the workload's lengths."""
    random = np.random.Generator(np.random.PCG64(11))

    def tokens(length: tuple[int, int], least: int) -> tuple[int, ...]:
        size = max(least, round(random.normal(*length)))
        return tuple(random.integers(3, VOCABULARY, size=size).tolist())

    def side(index: int) -> PairSide:
        return make_side(index, tokens(workload.output, 4))

    return [
        PreferencePair(
            prompt_id=f"prompt {i}",
            prompt_token_ids=tokens(workload.prompt, 8),
            chosen=side(0),
            rejected=side(1),
            kind="judged",
            margin=1.0,
        )
        for i in range(count)
    ]


def make_model(workload: Workload, folder: Path) -> str:
    """The real one, or a random Llama with a tokenizer that only TRL's constructor looks at."""
    if workload.model is not None:
        return workload.model
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=workload.hidden,
        intermediate_size=workload.mlp,
        num_hidden_layers=workload.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<s>": 0, "</s>": 1, "<pad>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    ).save_pretrained(folder)
    return str(folder)


def useful_flops(workload: Workload, pairs: list[PreferencePair]) -> tuple[float, float]:
    """(reference, training) floating-point operations that no implementation can avoid.

    Two per weight and position, prompts counted once; causal attention of each query over its
    own keys; head at predicted positions only; backward twice the forward. Nothing recomputed.
    """
    hidden, heads = workload.hidden, workload.heads or workload.hidden
    layer = hidden * (2 * heads + 2 * (workload.kv_heads or heads) + 3 * workload.mlp)
    forward = 0.0
    for pair in pairs:
        prompt = len(pair.prompt_token_ids)
        outputs = [len(side.token_ids) for side in (pair.chosen, pair.rejected)]
        scores = prompt**2 / 2 + sum(prompt * n + n**2 / 2 for n in outputs)
        forward += workload.layers * (2 * layer * packed_tokens(pair) + 4 * heads * scores)
        forward += 2 * hidden * workload.vocabulary * sum(outputs)
    return forward, 3 * forward
