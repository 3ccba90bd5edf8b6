"""Tiny random models of real architectures in their real file formats, for tests.

Each family gets the special tokens and the kind of chat template that it is known for: Llama 3's
headers, Qwen's ChatML, Mistral's `[INST]` with strict alternation, Gemma's turns without a system
role.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

TEXT = [
    "The quick brown fox jumps over the lazy dog while seven wizards ask for more tea.",
    "Please explain the difference between a list and a tuple, and give one example of each.",
    "What is 17 + 25? The answer is 42. Then multiply it by three and subtract nine.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
]
LLAMA = """{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>

{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>\
assistant<|end_header_id|>

{% endif %}"""
CHATML = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
INST = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = \
messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% else %}{% set system = '' %}\
{% set turns = messages %}{% endif %}{% for m in turns %}{% if (m['role'] == 'user') != \
(loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}\
{% if m['role'] == 'user' %}[INST] {% if loop.last %}{{ system }}{% endif %}{{ m['content'] }}\
[/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role \
not supported') }}{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != \
(loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}\
<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}
{{ m['content'] | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""

FAMILIES: dict[str, tuple[type, str, str, str, list[str]]] = {
    "llama": (
        LlamaConfig,
        LLAMA,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>"],
    ),
    "qwen3": (Qwen3Config, CHATML, "<|endoftext|>", "<|im_end|>", ["<|im_start|>"]),
    "mistral": (MistralConfig, INST, "<s>", "</s>", ["[INST]", "[/INST]"]),
    "gemma": (GemmaConfig, GEMMA, "<bos>", "<end_of_turn>", ["<start_of_turn>"]),
}


OTHERS: dict[str, tuple[type, str, str, str, list[str]]] = {
    "phi3": (Phi3Config, CHATML, "<|endoftext|>", "<|im_end|>", ["<|im_start|>"]),
}
"""Kinds that only some tests are about."""


def save_tokenizer(folder: Path, family: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the family's special tokens and chat template."""
    _, template, bos, eos, extra = (FAMILIES | OTHERS)[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", bos, eos, *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token="<pad>"
    )
    fast.chat_template = template
    fast.save_pretrained(str(folder))
    return fast


def save_policy(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny random causal model with its tokenizer.

    Many tokens end its outputs, as several do for real models, so that some end before the limit.
    """
    config = _config(folder, family, changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = [config.eos_token_id, *range(220, 260)]
    model.save_pretrained(str(folder))
    return folder


def save_reward_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny random sequence classifier with one logit."""
    config = _config(folder, family, changes)
    config.num_labels = 1
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(str(folder))
    return folder


def save_armorm(folder: Path) -> Path:
    """A tiny random ArmoRM under the published names of its tensors."""
    config = _config(folder, "llama", {})
    config.update(
        {
            "architectures": ["LlamaForRewardModelWithGating"],
            "num_objectives": 19,
            "gating_temperature": 10,
            "gating_hidden_dim": 24,
            "gating_n_hidden": 3,
        }
    )
    config.save_pretrained(str(folder))
    torch.manual_seed(2)
    tensors = {f"model.{k}": v for k, v in AutoModel.from_config(config).state_dict().items()}
    tensors["regression_layer.weight"] = torch.randn(19, config.hidden_size)
    tensors["reward_transform_matrix"] = torch.eye(19) + 0.1 * torch.randn(19, 19)
    tensors["gating.logit_scale"] = torch.ones(1)
    sizes = [config.hidden_size, 24, 24, 24, 19]
    for index, (before, after) in enumerate(pairwise(sizes)):
        tensors[f"gating.layers.{index}.weight"] = torch.randn(after, before)
        tensors[f"gating.layers.{index}.bias"] = torch.randn(after)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config(folder: Path, family: str, changes: dict[str, Any]) -> Any:
    tokenizer = save_tokenizer(folder, family)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        # Far apart, so that a random model has opinions: some tokens are likely, some are not.
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": family in ("gemma",),
    }
    return (FAMILIES | OTHERS)[family][0](**(shape | changes))
