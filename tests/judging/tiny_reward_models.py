"""Makes tiny reward models with random weights and a byte tokenizer."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SPECIAL = ["<pad>", "<s>", "<end>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] == 'refuse' %}{{ raise_exception('I refuse') }}{% endif %}"
    "[{{ message['role'] }}]{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "mistral": MistralConfig,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; it adds a BOS of its own wherever it is asked for special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<end>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        padding_side="left",
    )


def save_reward_model(folder: Path, architecture: str = "llama", **options: object) -> Path:
    """A folder with a model of 300 tokens and 256 positions; `options` go to its config."""
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "num_labels": 1,
    }
    config = ARCHITECTURES[architecture](**(settings | options))
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
