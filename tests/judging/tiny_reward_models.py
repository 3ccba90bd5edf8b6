"""Makes tiny reward models with random weights: sequence classifiers and ArmoRMs."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny import save_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from forethought.judging.armorm.armorm_model import ArmoRMModel
from forethought.types import Message, Prompt, ResponseGroup

SPECIAL = ["<pad>", "<s>", "<end>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] == 'refuse' %}{{ raise_exception('I refuse') }}{% endif %}"
    "[{{ message['role'] }}]{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
QWEN3 = """{% for message in messages %}<s>{{ message['role'] }}
{% set content = message['content'] %}{% if message['role'] == 'assistant' %}\
{% set thought = '' %}{% if '</think>' in content %}\
{% set thought = content.split('</think>')[0].split('<think>')[-1] %}\
{% set content = content.split('</think>')[-1] %}{% endif %}{% if loop.last %}<think>
{{ thought }}
</think>

{% endif %}{% endif %}{{ content }}<end>
{% endfor %}"""
"""As Qwen3's: what stands before `</think>` is the thought, kept only in the last turn."""

ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "mistral": MistralConfig,
}
OBJECTIVES = 19


def group(*responses: str, query: str = "Hi", prompt_id: str = "p") -> ResponseGroup:
    """Responses to the third turn of a conversation."""
    prompt = Prompt(
        prompt_id=prompt_id,
        messages=(
            Message(role="user", content="First"),
            Message(role="assistant", content="Yes?"),
            Message(role="user", content=query),
        ),
        category=None,
        source="test",
        reference=None,
    )
    return ResponseGroup(prompt=prompt, responses=responses)


def byte_tokenizer(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
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
        chat_template=template,
        padding_side="left",
    )


def save_reward_model(
    folder: Path, architecture: str = "llama", template: str = TEMPLATE, **options: object
) -> Path:
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
    byte_tokenizer(template).save_pretrained(folder)
    return folder


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Put tensors into a checkpoint, or take them out; `__` in a name stands for a point."""
    held = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        held.pop(name, None)
        if tensor is not None:
            held[name] = tensor
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_armorm(folder: Path, template: str | None = None) -> Path:
    """A random ArmoRM in the published layout, with Llama 3's control tokens; 512 positions."""
    tokenizer = save_tokenizer(folder, "llama")
    if template is not None:
        tokenizer.chat_template = template
        tokenizer.save_pretrained(str(folder))
    fields = {
        "architectures": ["LlamaForRewardModelWithGating"],
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "rope_theta": 500000.0,
        "num_objectives": OBJECTIVES,
        "gating_temperature": 0.5,
        "gating_hidden_dim": 24,
        "gating_n_hidden": 3,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    torch.manual_seed(2)
    model = ArmoRMModel(LlamaConfig.from_pretrained(folder))
    for name, tensor in model.named_parameters():
        if not name.startswith("model."):
            torch.nn.init.normal_(tensor, std=0.4)
    torch.nn.init.constant_(model.gating.logit_scale, 1.3)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
