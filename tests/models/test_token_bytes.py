"""How many tokens a text has at least: never more than it has."""

import pytest
from tiny import save_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from forethought.models.token_bytes import TokenBytes, token_bytes

TEXTS = (
    "",
    "a",
    "hello hello",
    "\x04" * 50,
    "é\u0301ệ한국" * 20,
    " " * 99,
    "\n\t\r",
    "𝔸🧪\U000e0001",
)


def byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    return tokenizer


def without_control_bytes() -> Tokenizer:
    """As some models are: it drops what their training texts had not."""
    letters = {character: number for number, character in enumerate("abehlo")}
    return byte_level({**letters, "he": 6, "ll": 7, "hell": 8}, [("h", "e"), ("l", "l")])


def known(tokenizer: Tokenizer) -> TokenBytes:
    found = token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert found is not None
    return found


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()])
@pytest.mark.parametrize("made", [without_control_bytes, None])
def test_a_text_has_no_fewer_tokens(tmp_path, made, normalizer):
    tokenizer = made() if made else save_tokenizer(tmp_path, "llama").backend_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    found = known(tokenizer)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert found.fewest_tokens(text) <= len(ids), text


def test_the_longest_token_and_the_dropped_bytes_count():
    found = known(without_control_bytes())
    assert found.most == 4
    assert found.fewest_tokens("hell" * 5) == 5
    assert found.fewest_tokens("\x04 " * 50) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": normalizers.Lowercase()},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {
            "pre_tokenizer": pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel()]
            )
        },
        {"model": models.WordLevel({"a": 0, "?": 1}, unk_token="?")},
    ],
)
def test_nothing_is_said_of_other_tokenizers(change):
    tokenizer = without_control_bytes()
    for name, value in change.items():
        setattr(tokenizer, name, value)
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) is None


def test_nothing_is_said_where_a_token_swallows_white_space():
    tokenizer = without_control_bytes()
    tokenizer.add_special_tokens([AddedToken("<|end|>", rstrip=True)])
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) is None
