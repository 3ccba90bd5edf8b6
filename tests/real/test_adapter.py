"""LoRA on a real model: the policy is an adapter alone, which is sampled, served and merged as one.

A run of one small iteration whose judge prefers short responses.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from real_server import NEW, ROUNDING, Greedy, ask, ask_streamed, served
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from forethought.config import ModelConfig, TransformersEngine
from forethought.config.recipe_files import load_recipe
from forethought.decoding.request import SamplingParams
from forethought.export.policy import export_policy
from forethought.models import loading, rendering
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.sampling.base import one_prompt
from forethought.sampling.open import open_sampler
from forethought.storage.sealed_stage import read_manifest
from forethought.thoughts import DIRECT
from forethought.types import Message, SampleRequest

pytestmark = pytest.mark.real

QUESTIONS = tuple(
    f"In one short sentence: what is {thing}?"
    for thing in ("the opposite of good", "the capital of Japan", "the opposite of day")
)
THINGS = ("the capital of France", "a noun", "the opposite of hot", "the moon", "a bird")


def short(prompt: Any, response: str) -> float:
    """The judge."""
    return -float(len(response))


@pytest.fixture(scope="module")
def run(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    prompts = [{"prompt": f"In one short sentence: what is {thing}?"} for thing in THINGS]
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
    recipe = {
        "run": str(folder / "run"),
        "model": {"path": str(real_model), "dtype": "bfloat16", "device": "cpu"},
        "arms": ["direct"],
        "iterations": 1,
        "prompts_per_iteration": len(THINGS) - 1,
        "prompts": {
            "train": [{"type": "file", "path": str(folder / "prompts.jsonl")}],
            "validation": {"count": 1},
        },
        "sampling": {"type": "transformers", "samples": 4, "max_new_tokens": 40},
        "judge": {"type": "verifier", "function": "test_adapter:short"},
        "pairs": {"max_unparsable": 1.0},
        "training": {
            "epochs": 2,
            "batch_size": 2,
            "learning_rate": 3e-4,
            "schedule": "constant",
            "warmup_ratio": 0,
            "lora": {"rank": 4},
        },
        "selection": {"by": "last"},
        "launch": {"threads": 1},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    run_recipe(load_recipe([str(folder / "mine.yaml")]), Reporter(Console(quiet=True)))
    return folder / "run"


@pytest.fixture(scope="module")
def policy(run: Path) -> Path:
    return run / "direct" / "iteration_0" / "selection" / "policy"


@pytest.fixture(scope="module")
def by_peft(real_model: Path, policy: Path) -> Greedy:
    """The policy as peft itself puts it together, in float32."""
    greedy = Greedy(real_model)
    greedy.model = PeftModel.from_pretrained(greedy.model, str(policy / "adapter")).eval()
    return greedy


def test_the_policy_is_an_adapter_that_keeps_what_was_learned(run, policy, real_model):
    assert not [*policy.glob("*.safetensors"), *policy.glob("*.bin")]
    adapter = loading.find_adapter(str(policy))
    assert adapter is not None
    assert (adapter.base.path, adapter.rank) == (str(real_model), 4)
    weights = load_file(policy / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in weights)
    counts: Any = read_manifest(run / "direct" / "iteration_0" / "training").counts
    assert counts["margin_kept"][-1] == pytest.approx(1, abs=0.05)


def test_it_is_sampled_the_fast_way_as_peft_has_it(policy, by_peft, caplog):
    model = ModelConfig(path=str(policy), dtype="float32", device="cpu")
    requests = [
        SampleRequest(
            prompt_id=question, messages=(Message(role="user", content=question),), seeds=(0,)
        )
        for question in QUESTIONS
    ]
    params = SamplingParams(temperature=0, top_p=1, max_new_tokens=NEW)
    with (
        caplog.at_level(logging.WARNING),
        open_sampler(TransformersEngine(), model=model, params=params) as sampler,
    ):
        sampled = [one_prompt(one) for one in sampler.sample(requests)]
    assert "slow" not in caplog.text
    for one in sampled:
        text = rendering.decode(by_peft.tokenizer, one.completions[0].token_ids)
        assert text == by_peft.answer(one.prompt_id, DIRECT)[0]


def test_its_export_is_an_ordinary_model_that_has_learned_the_same(
    run, real_model, by_peft, tmp_path
):
    merged = export_policy(run, tmp_path / "merged", arm="direct")
    assert not (merged / "adapter").exists()
    plain: Any = AutoModelForCausalLM.from_pretrained(merged)
    assert plain.dtype == torch.bfloat16
    seed: Any = AutoModelForCausalLM.from_pretrained(real_model)
    text, _ = by_peft.answer(QUESTIONS[0], DIRECT)
    conversation = [
        {"role": "user", "content": QUESTIONS[0]},
        {"role": "assistant", "content": text},
    ]
    ids = by_peft.tokenizer.apply_chat_template(
        conversation, return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.no_grad():
        apart, whole, before = (
            one.float()(ids).logits[0].log_softmax(-1) for one in (by_peft.model, plain, seed)
        )
    learned, lost = ((apart.exp() * (apart - one)).sum(-1).mean() for one in (before, whole))
    assert lost < 0.1 * learned


def test_the_command_serves_it(run, by_peft):
    with served(f"{run}/direct/1") as server:
        replies = [(ask(server, one), ask_streamed(server, one)) for one in QUESTIONS]
    clear = 0
    for question, ((whole, _), (streamed, _)) in zip(QUESTIONS, replies, strict=True):
        assert whole == streamed != ""
        text, lead = by_peft.answer(question, DIRECT)
        if lead > ROUNDING:
            clear += 1
            assert whole == text
    assert clear, "where rounding may decide every answer, nothing is shown"
