import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_tokenizer
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from forethought.decoding.continuous_batch import Generation, NewToken
from forethought.models import rendering
from forethought.serving.backends.detokenize import IncrementalDetokenizer, PieceWriter, Vocabulary

TEXT = "Zoë counts 数字: 😀😀👩‍👩‍👧 — naïve, e\u0301 and \ufffd too.\n  done"
GENERATION = Generation(
    token_ids=(1,), limit=9, temperature=1.0, top_p=1.0, seed=1, top_logprobs=None
)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), "llama")


@pytest.fixture(scope="module")
def byte_fallback():
    """Llama 2's and Gemma's kind: words with their space in front, bytes for what is unknown."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "▁counts", "▁and", *"Zabcdeiknostuv:,.▁", "▁a"]
    ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(token_models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")  # pyright: ignore
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def pushed(tokenizer, ids, before=()) -> list[str]:
    decoding = IncrementalDetokenizer(tokenizer, before)
    return [*(decoding.push(id_) for id_ in ids), decoding.finish()]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_pieces_are_the_text_and_hold_whole_characters_only(kind, request):
    tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert len(ids) > len(TEXT)
    pieces = pushed(tokenizer, ids)
    assert "".join(pieces) == TEXT == rendering.decode(tokenizer, ids)
    # One U+FFFD stands in the text itself.
    assert sum(piece.count("\ufffd") for piece in pieces) == 1
    assert "😀" in pieces
    assert "数" in pieces


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_an_output_goes_on_from_its_beginning(kind, request):
    tokenizer = request.getfixturevalue(kind)
    before = tokenizer.encode("Zoë counts", add_special_tokens=False)
    after = tokenizer.encode("Zoë counts and 数", add_special_tokens=False)[len(before) :]
    assert "".join(pushed(tokenizer, after, before)) == " and 数"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_tokens_of_a_byte_level_tokenizer_give_the_whole_text(byte_level, data):
    ids = data.draw(st.lists(st.integers(0, len(byte_level) - 1), max_size=200))
    assert "".join(pushed(byte_level, ids)) == rendering.decode(byte_level, ids)


def test_characters_that_no_token_ends_at_are_shown_all_the_same():
    # Tokens of the last bytes of one character and the first of the next.
    halves = "\U0001f600".encode()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    shown = dict(zip(range(256), _byte_characters(), strict=True))
    first, cross = (
        shown[halves[0]] + shown[halves[1]],
        "".join(shown[byte] for byte in (*halves[2:], *halves[:2])),
    )
    ids = {word: i for i, word in enumerate([*alphabet, first, cross])}
    tokenizer = Tokenizer(token_models.BPE(ids, []))
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    pieces = pushed(fast, [ids[first], *[ids[cross]] * 200])
    assert pieces[:3] == ["", "😀", "😀"]
    assert "".join(pieces) == "😀" * 200 + "\ufffd"


def _byte_characters() -> list[str]:
    """GPT-2's characters for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def test_garbage_does_not_pile_up(byte_level):
    lone = byte_level.convert_tokens_to_ids(_byte_characters()[0x80])
    pieces = pushed(byte_level, [lone] * 500)
    assert "".join(pieces) == "\ufffd" * 500
    assert max(len(piece) for piece in pieces) < 5


def test_tokens_of_log_probabilities_make_up_the_text(byte_level):
    ids = byte_level.encode("数 ok", add_special_tokens=False)
    pen = PieceWriter(byte_level, Vocabulary(byte_level), before=(), prompt_tokens=7)
    pieces = []
    for id_ in [*ids, byte_level.eos_token_id]:
        ends = id_ == byte_level.eos_token_id
        top = ((id_, -0.5), (ids[-1], -2.0))
        pen.add(
            NewToken(
                generation=GENERATION, token_id=id_, ends=ends, logprob=-0.5, top=top,
                finish_reason="stop" if ends else None,
            )
        )  # fmt: skip
        piece = pen.take()
        pieces += [piece] if piece is not None else []
    assert [piece.prompt_tokens for piece in pieces] == [7] + [None] * (len(pieces) - 1)
    assert sum(piece.tokens for piece in pieces) == len(ids) + 1
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    for piece in pieces:
        assert "".join(logprob.token for logprob in piece.logprobs) == piece.text
    assert [logprob.token for logprob in pieces[0].logprobs] == ["", "", "数"]
    assert pieces[0].logprobs[2].top[1][0] == byte_level.decode(ids[-1])
    assert sum(len(piece.logprobs) for piece in pieces) == len(ids)


def test_a_cut_character_at_the_end_is_shown_as_the_whole_text_would(byte_level):
    ids = byte_level.encode("ok 数", add_special_tokens=False)[:-1]
    pen = PieceWriter(byte_level, Vocabulary(byte_level), before=(), prompt_tokens=1)
    for index, one in enumerate(ids):
        last = index == len(ids) - 1
        pen.add(
            NewToken(
                generation=GENERATION, token_id=one, ends=False, logprob=None, top=(),
                finish_reason="length" if last else None,
            )
        )  # fmt: skip
    piece = pen.take()
    assert piece is not None
    assert piece.text == rendering.decode(byte_level, ids) == "ok \ufffd"


def test_the_space_in_front_of_a_word_belongs_to_its_token(byte_fallback):
    vocabulary = Vocabulary(byte_fallback)
    assert vocabulary[byte_fallback.convert_tokens_to_ids("▁counts")] == " counts"
    assert vocabulary[byte_fallback.eos_token_id] == "</s>"
