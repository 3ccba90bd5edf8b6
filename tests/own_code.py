"""Tiny models whose code comes with their checkpoint, under an architecture of their own."""

import json
from pathlib import Path
from typing import Any

import torch
from tiny import save_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel
from transformers import LlamaPreTrainedModel
from transformers import LlamaPreTrainedModel

from .halves import halved


class OwnConfig(LlamaConfig):
    model_type = "own_tiny"


class OwnModel(LlamaModel):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = halved(output.last_hidden_state)
        return output


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = OwnModel(config)
        self.post_init()


class OwnForSequenceClassification(LlamaForSequenceClassification):
    config_class = OwnConfig

    def __init__(self, config):
        LlamaPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = OwnModel(config)
        self.score = torch.nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()
"""
"""Not Llama's: its last hidden states are half as long, by a function of a file beside it."""
FILES = {"modeling_own.py": CODE, "halves.py": "def halved(hidden):\n    return hidden / 2\n"}


def save_own(folder: Path, *, reward: bool = False, seed: int = 0) -> Path:
    """A policy, or a reward model, that loads with `trust_remote_code` alone."""
    tokenizer: Any = save_tokenizer(folder, "llama")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.num_labels = 1
    torch.manual_seed(seed)
    kind = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    model = kind.from_config(config)
    if not reward:
        model.generation_config.eos_token_id = [config.eos_token_id, *range(100, 260)]
    model.save_pretrained(str(folder))
    for name, text in FILES.items():
        (folder / name).write_text(text)
    written = LlamaConfig.from_pretrained(folder).to_dict()
    written |= {
        "model_type": "own_tiny",
        "architectures": ["OwnForSequenceClassification" if reward else "OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
            "AutoModelForSequenceClassification": "modeling_own.OwnForSequenceClassification",
        },
    }
    (folder / "config.json").write_text(json.dumps(written))
    return folder
