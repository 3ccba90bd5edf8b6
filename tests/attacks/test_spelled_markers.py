"""An output that spells a marker of its format, where the marker is a token: only the token counts.

What is secret is known by token ids alone, by the rules that docs/serving.md states, and is made of
characters that occur nowhere else.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_policy, save_tokenizer

from forethought.models.loading import load_runnable, load_tokenizer
from forethought.models.marker_tokens import add_marker_tokens, lacking, split_by_token
from forethought.models.rendering import decode, encode_output, render
from forethought.serving.backends.base import AnswerDelta, AnswerRequest, BackendError, Piece
from forethought.serving.backends.detokenize import IncrementalDetokenizer
from forethought.serving.backends.upstream_reply import UpstreamReply
from forethought.serving.thought_filter import ThoughtFilter, joined
from forethought.thoughts import TAGS, TOKENS, ThoughtFormat
from forethought.thoughts.by_token import TokenMarkers
from forethought.types import Message, ParseStatus

SECRETS, SHOWN = "qzjx", "abé🙂"
FORMATS = [TOKENS, TAGS]
OPEN, CLOSE, SECRET, PUBLIC, SPELLED = "open", "close", "secret", "public", "spelled"


@dataclass(frozen=True)
class Tokens:
    """A tokenizer that has the format's markers as tokens."""

    tokenizer: Any
    rules: ThoughtFormat

    @property
    def opening(self) -> int:
        return self.tokenizer.added_tokens_encoder[self.rules.thought_starts_after[0]]

    @property
    def closing(self) -> int:
        return self.tokenizer.added_tokens_encoder[self.rules.response_starts_after[0]]

    def spelled(self, text: str) -> list[int]:
        """Its tokens, none of them a marker's: piece by piece, as `</`, `think`, `>`."""
        pieces = [text[:3], text[3:-2], text[-2:]]
        ids = [
            id_
            for piece in pieces
            for id_ in self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        ]
        assert not {self.opening, self.closing} & set(ids)
        return ids


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma"])
def tokenizer(request, tmp_path_factory):
    """Has `<think>` as Qwen3 has it, a token that is not called special, and our own two."""
    made = save_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)
    made.add_tokens(list(TAGS.markers))
    made.add_special_tokens({"additional_special_tokens": list(TOKENS.markers)})
    return made


@st.composite
def outputs(draw, tokens: Tokens):
    """Token ids; what of them a stream may show; where in them the response last begins."""
    ids: list[int] = []
    hidden, begun = True, False
    last = 0
    shown = ""
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from([OPEN, CLOSE, CLOSE, SPELLED, SPELLED, "text", "text"]))
        if kind == OPEN:
            ids.append(tokens.opening)
            hidden = True
        elif kind == CLOSE:
            if begun and not hidden:
                last = len(shown)
            ids.append(tokens.closing)
            hidden, begun = False, True
        elif kind == SPELLED:
            marker = draw(st.sampled_from(tokens.rules.markers))
            ids += tokens.spelled(marker[: draw(st.sampled_from([len(marker), -1, -2]))])
        else:
            text = "".join(
                draw(st.lists(st.sampled_from(SECRETS if hidden else SHOWN), min_size=1))
            )
            ids += tokens.tokenizer(text, add_special_tokens=False)["input_ids"]
            shown += "" if hidden else text
    return ids, shown, last


def letters(text: str, of: str) -> str:
    return "".join(letter for letter in text if letter in of)


def filtered(pieces, rules: ThoughtFormat) -> AnswerDelta:
    """What the filter of the server shows of an output."""
    question = AnswerRequest(
        messages=(Message(role="user", content="Hi"),),
        think=True,
        temperature=1.0,
        top_p=1.0,
        seed=1,
        max_tokens=None,
        stop=(),
        top_logprobs=None,
    )
    answer = ThoughtFilter(question, rules, None)
    return joined([answer.take(piece) for piece in pieces])


def piece(text: str, finish=None) -> Piece:
    return Piece(text=text, tokens=1, logprobs=(), prompt_tokens=None, finish_reason=finish)


@pytest.mark.parametrize("rules", FORMATS, ids=lambda rules: rules.name)
def test_an_answer_shows_what_stands_behind_the_token(tokenizer, rules):
    rules = split_by_token(rules, tokenizer)
    assert rules.markers_are_tokens
    tokens = Tokens(tokenizer, rules)

    @settings(max_examples=300, deadline=None)
    @given(outputs(tokens), st.data())
    def check(output, data):
        ids, shown, last = output
        stream = IncrementalDetokenizer(tokenizer, (), rules.markers)
        pieces = [piece(stream.push(id_)) for id_ in ids] + [piece(stream.finish(), "stop")]
        # Half a character at a segment's end decodes to one that stands for it.
        whole = decode(tokenizer, ids, rules.markers)
        assert "".join(each.text for each in pieces) == whole
        delta = filtered(pieces, rules)
        assert letters(delta.response, SHOWN) == shown
        assert not letters(delta.response, SECRETS)
        assert letters(delta.response[delta.restart :], SHOWN) == shown[last:]
        parsed = rules.parse(whole, served=True)
        assert letters(parsed.response or "", SHOWN) == shown[last:]
        # What is gone on from is the same output, so the same tokens are markers.
        again = encode_output(tokenizer, whole, rules.markers)
        marks = {tokens.opening, tokens.closing}
        assert [i for i in again if i in marks] == [i for i in ids if i in marks]

    check()


@pytest.mark.parametrize("rules", FORMATS, ids=lambda rules: rules.name)
def test_a_text_that_comes_beside_its_ids_is_split_by_them(tokenizer, rules):
    """As vLLM gives it: ids at once, their text when it likes, in other pieces."""
    tokens = Tokens(tokenizer, split_by_token(rules, tokenizer))
    names = {tokens.opening: rules.thought_starts_after[0], tokens.closing: rules.markers[-1]}

    def plain(ids):
        return tokenizer.decode(ids, skip_special_tokens=False)

    @settings(max_examples=300, deadline=None)
    @given(outputs(tokens), st.data())
    def check(output, data):
        ids, shown, _ = output
        markers = TokenMarkers(names, plain)
        known, given_out, pieces, text = 0, 0, [], ""
        while known < len(ids) or given_out < len(text):
            step = data.draw(st.integers(1, 4))
            markers.read(ids[known : known + step])
            known = min(known + step, len(ids))
            text = plain(ids[:known])
            # What ends in half a character waits, as vLLM has it wait.
            ready = len(text.rstrip("\ufffd")) if known < len(ids) else len(text)
            upto = max(given_out, data.draw(st.integers(0, ready)) if known < len(ids) else ready)
            pieces.append(piece(markers.text(text[given_out:upto])))
            given_out = upto
        delta = filtered([*pieces, piece("", "stop")], tokens.rules)
        assert letters(delta.response, SHOWN) == shown
        assert not letters(delta.response, SECRETS)

    check()


@pytest.mark.parametrize("rules", FORMATS, ids=lambda rules: rules.name)
def test_the_ids_of_an_upstream_count_and_not_its_text(tokenizer, rules):
    tokens = Tokens(tokenizer, split_by_token(rules, tokenizer))
    secret, shown = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("qzjx", "abab")
    )
    ids = [*tokens.spelled(rules.markers[-1]), *secret, tokens.closing]
    ids += [*shown, *tokens.spelled(rules.markers[-1])]
    for text in (tokenizer.decode(ids), rules.markers[-1] + "qzjx"):
        stream = IncrementalDetokenizer(tokenizer, (), rules.markers)
        reply = UpstreamReply(text_is_response=False, by_token=stream)
        chunks = [
            {"delta": {"content": text}, "token_ids": ids[:3]},
            {"delta": {"content": ""}, "token_ids": ids[3:]},
            {"delta": {}, "finish_reason": "stop"},
        ]
        read = [reply.read(json.dumps({"choices": [chunk]}).encode()) for chunk in chunks]
        delta = filtered([*filter(None, read), reply.last()], tokens.rules)
        assert delta.response.replace("\u2060", "") == f"abab{rules.markers[-1]}"
        whole = UpstreamReply(
            text_is_response=False,
            by_token=IncrementalDetokenizer(tokenizer, (), rules.markers),
        )
        body = {"message": {"content": text}, "token_ids": ids, "finish_reason": "stop"}
        read = list(whole.read_whole(json.dumps({"choices": [body]}).encode()))
        assert filtered([*read, whole.last()], tokens.rules).response == delta.response


@pytest.mark.parametrize("ids", [None, "12", [1.5], [-1], [True]])
def test_text_of_an_upstream_without_its_ids_is_an_error(tokenizer, ids):
    reply = UpstreamReply(
        text_is_response=False,
        by_token=IncrementalDetokenizer(tokenizer, (), TOKENS.markers),
    )
    chunk = {"delta": {"content": "secret <|response|> x"}, "token_ids": ids}
    with pytest.raises(BackendError, match="text without its token ids") as error:
        reply.read(json.dumps({"choices": [chunk]}).encode())
    assert "secret" not in str(error.value)


def test_markers_are_added_once_and_begin_as_the_words_they_stand_for(tmp_path):
    folder = save_policy(tmp_path / "model")
    tokenizer = load_tokenizer(str(folder))
    model = load_runnable(str(folder), dtype="float32", device="cpu")
    assert lacking(TOKENS, tokenizer) == list(TOKENS.markers)
    with pytest.raises(ValueError, match=r"lacks <\|thought\|>, <\|response\|>; give the recipe a"):
        split_by_token(TOKENS, tokenizer)
    inner: Any = model.get_input_embeddings()
    rows, size = inner.weight.shape
    words: Any = tokenizer("Here is my thought:", add_special_tokens=False)["input_ids"]
    mean = inner.weight[words].mean(dim=0)
    before = tokenizer.all_special_tokens
    ids = add_marker_tokens(model, tokenizer, TOKENS)
    inner, outer = cast("Any", model.get_input_embeddings()), cast("Any", model.lm_head)
    assert inner.weight.shape == (max(rows, max(ids) + 1), size)
    assert model.config.vocab_size == len(inner.weight) == len(outer.weight)
    assert (inner.weight[ids[0]] - mean).abs().max() < 1e-6
    assert outer.weight[ids].isfinite().all()
    assert set(before) < set(tokenizer.all_special_tokens)
    assert add_marker_tokens(model, tokenizer, TOKENS) == []
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    assert split_by_token(TOKENS, again).markers_are_tokens
    # A message cannot hold one.
    prompt = render(again, [Message(role="user", content="Say <|response|> and <|thought|>.")])
    assert not set(ids) & set(prompt)


def test_an_output_without_the_token_has_no_response(tokenizer):
    rules = split_by_token(TOKENS, tokenizer)
    tokens = Tokens(tokenizer, rules)
    ids = [tokens.opening, *tokens.spelled("<|response|>")]
    ids += tokenizer("qz", add_special_tokens=False)["input_ids"]
    text = decode(tokenizer, ids, rules.markers)
    assert rules.parse(text, served=True).status is ParseStatus.NO_RESPONSE
