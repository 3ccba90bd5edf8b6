"""What is refused before vLLM is needed, so these tests run without it."""

import json
import sys
from pathlib import Path

import pytest
from tiny import save_policy

from forethought.config import ModelConfig, VllmEngine
from forethought.decoding.request import SamplingParams
from forethought.sampling.open import open_sampler

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=12)


@pytest.fixture
def without_vllm(monkeypatch):
    """As where it is not installed, also where it is."""
    monkeypatch.setitem(sys.modules, "vllm", None)


def opened(folder: Path, params: SamplingParams = GREEDY, **fields):
    model = ModelConfig(path=str(folder))
    return open_sampler(VllmEngine.model_validate(fields), model=model, params=params)


def adapter(folder: Path, **config) -> Path:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_machine_without_vllm_is_told_what_to_do(without_vllm, tmp_path):
    with pytest.raises(ValueError, match=r"pip install vllm, or use sampling\.type: transformers"):
        opened(save_policy(tmp_path))


def test_a_temperature_that_vllm_would_change_is_refused(tmp_path):
    params = SamplingParams(temperature=0.001, top_p=1.0, max_new_tokens=12)
    with pytest.raises(ValueError, match=r"temperature: 0\.001 is below 0\.01"):
        opened(save_policy(tmp_path), params)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base_model_name_or_path": "./moved", "r": 4}, r"trained on \./moved, which is not"),
        ({"base_model_name_or_path": None, "r": 4}, r"no adapter that training wrote"),
        ({"r": 4}, r"no adapter that training wrote"),
        ({"base_model_name_or_path": "microworld", "r": 600}, r"rank 600, vLLM takes at most 512"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(config, message, tmp_path):
    folder = adapter(save_policy(tmp_path), **config)
    with pytest.raises(ValueError, match=message + ".*adapters: false"):
        opened(folder, adapters=True)


def test_an_adapter_folder_without_config_is_refused(tmp_path):
    folder = save_policy(tmp_path)
    (folder / "adapter").mkdir()
    with pytest.raises(ValueError, match="no adapter that training wrote"):
        opened(folder, adapters=True)


def test_an_adapter_is_not_looked_at_where_it_is_not_asked_for(without_vllm, tmp_path):
    folder = adapter(save_policy(tmp_path), r=600)
    with pytest.raises(ValueError, match="pip install vllm"):
        opened(folder)
