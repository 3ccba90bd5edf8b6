"""Tiny random models and a word tokenizer with a chat template, made on the spot."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from forethought.types import Message, SampleRequest

VOCABULARY = 64
END = 2
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3": (
        "gemma3_text",
        {
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi3": ("phi3", {}),
    "qwen2": ("qwen2", {}),
}


GENERAL = ("gpt_oss", "bloom", "mamba", "rwkv", "qwen3_next")
"""Attention sinks, ALiBi, a recurrent state, no cache, recurrent and attention layers."""
VARIANTS_OF_GENERAL: dict[str, dict[str, Any]] = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"time_step_rank": 4},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
}


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<bos>", "<end>", "<unk>", "<user>", "<assistant>", "<system>"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    word_level = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    backend = Tokenizer(word_level)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    made.chat_template = TEMPLATE
    return made


def model(variant: str = "llama", **changes: Any) -> PreTrainedModel:
    """Weights are wide, so that outputs differ; the end token comes now and then."""
    kind, special = VARIANTS.get(variant, (variant, VARIANTS_OF_GENERAL.get(variant, {})))
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, **special, **changes})
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    made.generation_config.eos_token_id = END
    return made


def request(words: int, seeds: tuple[int, ...], shift: int = 0) -> SampleRequest:
    """A prompt of so many words, and two tokens more."""
    content = " ".join(f"w{(7 * i + 3 * words + shift) % 50}" for i in range(words))
    return SampleRequest(
        prompt_id=f"p{words}-{shift}",
        messages=(Message(role="user", content=content),),
        seeds=seeds,
    )
