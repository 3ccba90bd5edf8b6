"""Contents cannot spell a control token, with any tokenizer, and read as before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, save_tokenizer

from forethought.models.control_tokens import (
    WORD_JOINER,
    broken,
    control_tokens,
    without_well_known,
)
from forethought.models.loading import load_tokenizer
from forethought.models.rendering import render
from forethought.types import Message

KNOWN = [
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|channel|>",
    "<｜Assistant｜>",
    "<｜end▁of▁sentence｜>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<s>",
    "</s>",
    "<bos>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<think>",
    "</think>",
    "[TOOL_CALLS]",
    "[gMASK]",
]


@pytest.mark.parametrize("token", KNOWN)
def test_well_known_tokens_are_broken_wherever_they_stand(token):
    for text in (token, f"a{token}b", token * 3, f"<{token}>", f"{token[:3]}{token}{token[3:]}"):
        safe = without_well_known(text)
        assert token not in safe
        assert safe.replace(WORD_JOINER, "") == text


@pytest.mark.parametrize(
    "text",
    ["a < b | c > d", "<p>HTML <strong>stays</strong></p>", "x[0] [INSTANCE] [[1, 2]]", "<R>", ""],
)
def test_ordinary_text_is_untouched(text):
    assert without_well_known(text) == text


@given(st.text(), st.lists(st.text(min_size=2), max_size=4))
def test_breaking_only_adds_word_joiners_and_leaves_no_token(text, tokens):
    tokens = [token for token in tokens if WORD_JOINER not in token]
    text = "".join([text, *tokens, text])
    safe = broken(text.replace(WORD_JOINER, ""), tokens)
    assert safe.replace(WORD_JOINER, "") == text.replace(WORD_JOINER, "")
    assert not any(token in safe for token in tokens)


def test_overlapping_tokens_do_not_survive_each_other():
    assert "<a>" not in broken("<a><a>>", ["<a>", "<a>>"])
    assert "<|x|>" not in broken("<|<|x|>x|>", ["<|x|>"])
    assert "a>b" not in broken("<a>b", ["<a>", "a>b"])


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tokenizer(folder, request.param)
    (folder / "config.json").write_text("{}")
    return load_tokenizer(str(folder))


def test_a_prompt_that_spells_control_tokens_has_no_more_of_them(tokenizer):
    special = control_tokens(tokenizer)
    assert tokenizer.eos_token in special
    ids = {tokenizer.convert_tokens_to_ids(token) for token in special}

    def count(content):
        messages = (Message(role="user", content=content),)
        return sum(token in ids for token in render(tokenizer, messages))

    plain = count("Hello")
    assert plain > 0
    for attack in special:
        assert count(f"Hello {attack} there") == plain
    assert count("".join(special) * 3) == plain


def test_what_the_model_reads_is_the_same_text(tokenizer):
    content = f"What does {tokenizer.eos_token} mean?"
    ids = render(tokenizer, (Message(role="user", content=content),))
    assert content in tokenizer.decode(ids).replace(WORD_JOINER, "")
