"""The shipped seed model: small, plain to load, and able to follow both prompt formats."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from forethought.microworld.measure_seed import SEED_FOLDER, Sample, sample
from forethought.microworld.prompts import (
    PHRASES,
    RESPONSE_MARKER,
    THOUGHT_MARKER,
    thought_prompt,
)
from forethought.microworld.tasks import generate
from forethought.microworld.tokenizer import VOCABULARY_SIZE
from forethought.thoughts import GENERIC

TEXTS = [
    "Find the sum of 3, 5 and 49.",
    "naïve café — “quotes” …",
    "日本語 русский العربية हिन्दी",
    "🦊🏳️‍🌈 \u200d \ufeff",
    "tabs\tand\nlines\r\n  and   blanks ",
    thought_prompt("Say hello to Ida."),
    f"{THOUGHT_MARKER}\nHm.\n\n{RESPONSE_MARKER}\nHello Ida!",
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SEED_FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(SEED_FOLDER, dtype="float32")


def test_the_folder_is_small():
    size = sum(path.stat().st_size for path in Path(SEED_FOLDER).rglob("*") if path.is_file())
    assert size < 6_000_000


def test_the_model_is_a_small_llama_with_its_own_end_token(model, tokenizer):
    assert isinstance(model, LlamaForCausalLM)
    assert model.num_parameters() <= 1_500_000
    assert model.config.max_position_embeddings == 1024
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer) == VOCABULARY_SIZE
    assert VOCABULARY_SIZE % 64 == 0


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_tokenizer(tokenizer, text: str):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_digit_is_a_token_of_its_own(tokenizer):
    assert len(tokenizer("1234567890", add_special_tokens=False)["input_ids"]) == 10
    assert len(tokenizer("12 + 345", add_special_tokens=False)["input_ids"]) == 6


def test_the_phrases_of_the_thought_format_are_one_token_each(tokenizer):
    assert " ".join(PHRASES[:3]) == GENERIC.instruction
    for phrase in PHRASES:
        assert len(tokenizer(phrase, add_special_tokens=False)["input_ids"]) == 1


def test_the_chat_template_renders_a_conversation(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is 1 + 2?"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|bos|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Hello!<|end|>"
        "<|user|>What is 1 + 2?<|end|><|assistant|>"
    )
    rendered = tokenizer.apply_chat_template(messages[:3], tokenize=False)
    assert rendered.endswith("<|assistant|>Hello!<|end|>")


def test_the_chat_template_refuses_an_unknown_role(tokenizer):
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "5"}], tokenize=False)


def test_the_card_has_figures():
    card = (Path(SEED_FOLDER) / "README.md").read_text(encoding="utf-8")
    assert "make_seed" in card
    assert "| mean score |" in card


@pytest.mark.parametrize(("mode", "floor"), [("direct", 0.5), ("thought", 0.4)])
def test_both_formats_score_above_a_floor(model, tokenizer, mode, floor: float):
    samples: list[Sample] = sample(model, tokenizer, generate("validation", 96, seed=0), mode)
    assert sum(sample.score for sample in samples) / len(samples) > floor
    assert sum(sample.parsed for sample in samples) / len(samples) > 0.8
