"""No character of a thought in a response, for any text, any chunks, any bytes.

Thoughts are made of characters that occur nowhere else, so one of them in a response delta is a
leak and nothing else.
"""

import asyncio
import json
from contextlib import suppress
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from microworld_judges import microworld_prompts
from scripted_backend import Script, ScriptedBackend, script

from forethought.chat_client.sse import EventReader
from forethought.config import ModelConfig
from forethought.microworld.demonstrations import (
    LEAP_OPENERS,
    RAMBLING_SENTENCES,
    VAGUE_SENTENCES,
    WORKED_OPENERS,
)
from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.backends.base import (
    AnswerDelta,
    AnswerEnd,
    AnswerRequest,
    AnswerSettings,
    NoResponseError,
)
from forethought.serving.backends.embedded import EmbeddedBackend
from forethought.serving.backends.upstream_reply import UpstreamReply
from forethought.thoughts import DIRECT, GENERIC, PLAIN, SPECIFIC, TAGS, ThoughtFormat
from forethought.types import Message, ParseStatus

OWN = ThoughtFormat(
    name="own",
    instruction="Think.",
    thought_starts_after=("[[thought]]",),
    response_starts_after=("[[answer]]", "ANSWER\n"),
)
THINKING = [GENERIC, SPECIFIC, TAGS, OWN, GENERIC.as_hybrid(), OWN.as_hybrid()]
MARKERS = [
    one for each in THINKING for one in (*each.thought_starts_after, *each.response_starts_after)
]
HALVES = [one[: len(one) // 2] for one in MARKERS] + [one[len(one) // 2 :] for one in MARKERS]
SECRETS = "秘密思考🙈ћ"
"""Characters of thoughts; in no marker, no half of one and no response."""
SECRET = st.text(alphabet=SECRETS + " \n", min_size=1, max_size=6)
OPEN = st.sampled_from(["yes", "é🙂", "```\n", "<", "H", " ", "\n", "2 + 3", "\u2028", "</", "ANS"])
ANY = st.text(st.characters(codec="utf-8", exclude_characters=SECRETS), max_size=4)
WILD = st.lists(st.sampled_from(MARKERS + HALVES) | OPEN | ANY, max_size=10).map("".join)
FORMATS = st.sampled_from(THINKING)
MANY = settings(max_examples=250, deadline=None)


def question(**fields) -> AnswerRequest:
    given_fields = {
        "messages": (Message(role="user", content="Hi"),),
        "think": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 1,
        "max_tokens": None,
        "stop": (),
        "top_logprobs": 1,
    }
    return AnswerRequest(**{**given_fields, **fields})


def answered(backend, thought_format, *, budget=None, **fields):
    """Deltas and finish reason; without a response nothing and `None`."""

    async def collect():
        chosen = AnswerSettings(thought_budget=budget, attempts=1, without_response="error")
        answerer = SplittingAnswerer(backend, thought_format, chosen)
        deltas: list[AnswerDelta] = []
        with suppress(NoResponseError):
            async for part in answerer.answer(question(**fields)):
                if isinstance(part, AnswerEnd):
                    return deltas, part.finish_reason
                deltas.append(part)
        return deltas, None

    found = asyncio.run(collect())
    assert backend.open == 0
    return found


def response(deltas) -> str:
    return "".join(delta.response for delta in deltas)


def assert_nothing_leaked(deltas):
    for delta in deltas:
        assert not set(delta.response) & set(SECRETS)
        for entry in delta.logprobs:
            assert not set(entry.token) & set(SECRETS)


def served(thought_format, text, reason="stop"):
    """Both sides of a whole output, as they may be shown."""
    return thought_format.stream(served=True).feed(text, end=reason)


@st.composite
def cuts(draw, text):
    """The text in chunks of any length."""
    places = draw(st.lists(st.integers(0, len(text)), max_size=12))
    edges = sorted({0, len(text), *places})
    chunks = [text[start:end] for start, end in pairwise(edges)]
    return list(text) if draw(st.booleans()) else chunks


@st.composite
def outputs(draw):
    """A format and an output of it whose thought is secret: markers split, doubled, missing."""
    thought_format = draw(FORMATS)
    opening = "".join(thought_format.thought_starts_after[:1])
    if thought_format.thought_marker_optional and draw(st.booleans()):
        opening = ""
    others = [one for one in MARKERS if one not in thought_format.response_starts_after]
    inner = st.sampled_from(others + [one[:-1] for one in thought_format.response_starts_after])
    thought = "".join(draw(st.lists(SECRET | inner | OPEN, min_size=1, max_size=8)))
    # Two pieces may make a whole marker ("ANSWER" and a line break), and what follows a marker is
    # no thought any more: such a pair is kept apart.
    for one in thought_format.response_starts_after:
        thought = thought.replace(one, f"{one[:-1]}{SECRETS[0]}{one[-1]}")
    marker = draw(st.sampled_from(thought_format.response_starts_after))
    rest = draw(WILD)
    before = draw(st.sampled_from(["", " ", "\n"]))
    has_marker = draw(st.booleans()) or draw(st.booleans())
    text = before + opening + thought + (marker + rest if has_marker else "")
    return thought_format, text


@MANY
@given(st.sampled_from([*THINKING, DIRECT]), WILD, st.data(), st.sampled_from(["stop", "length"]))
def test_the_joined_stream_is_the_parsed_response(thought_format, text, data, reason):
    chunks = data.draw(cuts(text))
    backend = ScriptedBackend(script(text, cut=chunks, finish=reason, logprobs=True))
    deltas, finish = answered(backend, thought_format)
    expected = served(thought_format, text, reason)
    assert response(deltas) == expected.response
    assert finish == (reason if expected.response else None)
    if finish is not None:
        assert "".join(delta.thought for delta in deltas) == expected.thought


@MANY
@given(outputs(), st.data())
def test_no_character_of_a_thought_is_in_a_response(output, data):
    thought_format, text = output
    chunks = data.draw(cuts(text))
    stop = tuple(data.draw(st.lists(st.sampled_from(["yes", "<", "\n", "```"]), max_size=2)))
    limit = data.draw(st.none() | st.integers(1, 5))
    backend = ScriptedBackend(script(text, cut=chunks, logprobs=True))
    deltas, _ = answered(backend, thought_format, stop=stop, max_tokens=limit)
    whole = served(thought_format, text)
    assert whole.response.startswith(response(deltas))
    assert whole.thought.startswith("".join(delta.thought for delta in deltas))
    assert_nothing_leaked(deltas)


@MANY
@given(FORMATS, SECRET, SECRET, st.data())
def test_a_marker_that_came_too_early_shows_nothing_of_a_whole_answer(
    thought_format, before, between, data
):
    """A model names the response marker in its thought, thinks on, and writes it again."""
    markers = st.sampled_from(thought_format.response_starts_after)
    opening = "".join(thought_format.thought_starts_after[:1])
    early, late = data.draw(markers), data.draw(markers)
    loud = data.draw(st.sampled_from([late, late.upper(), f"## {late}"]))
    text = f"{opening}{before}\n{early}{between}\n{loud} yes"
    backend = ScriptedBackend(script(text, cut=data.draw(cuts(text)), logprobs=True))
    deltas, _ = answered(backend, thought_format, whole=True)
    assert_nothing_leaked(deltas)
    assert response(deltas) == "yes"


@MANY
@given(outputs(), st.data(), st.integers(0, 6))
def test_a_thought_cut_by_its_budget_does_not_leak(output, data, budget):
    thought_format, text = output
    chunks = data.draw(cuts(text))
    after = data.draw(WILD)
    backend = ScriptedBackend(
        *([script(text, cut=chunks, logprobs=True)] if budget else []),
        script(after, cut=data.draw(cuts(after)), logprobs=True),
        can_continue=True,
    )
    deltas, _ = answered(backend, thought_format, budget=budget)
    assert_nothing_leaked(deltas)
    *_, last = backend.draws
    if last.begun:
        begun_with = thought_format.parse(last.begun).thought or ""
        thought = "".join(delta.thought for delta in deltas)
        # What is shown is all that was written, an unfinished sentence at its end too.
        assert "```" in last.begun or thought.startswith(begun_with)
        # A response marker that the model writes itself is the one that counts.
        opening = "".join(f"{one}\n" for one in thought_format.thought_starts_after[:1])
        own = thought_format.parse(opening + after)
        begun = opening if own.status is not ParseStatus.NO_RESPONSE else last.begun
        assert response(deltas) == served(thought_format, begun + after).response


@st.composite
def direct_outputs(draw):
    """An output that was to have no thought and has a secret one, its markers in any spelling."""
    thought_format = draw(st.sampled_from([GENERIC, SPECIFIC, OWN]))
    spelled = st.sampled_from([str, str.lower, str.upper, str.title])
    lead = draw(st.sampled_from(["", "Sure. ", "yes\n\n", "**", "# ", "é🙂\n"]))
    opening = draw(st.sampled_from(thought_format.thought_starts_after or ("",)))
    closing = draw(st.sampled_from(thought_format.response_starts_after))
    secret = draw(SECRET.filter(str.strip))
    if thought_format is OWN:
        # Its marker is a line's end, too; what follows one is no thought.
        secret = secret.replace("\n", " ")
    ended = draw(st.booleans())
    text = lead + draw(spelled)(opening) + f" {secret} "
    # Without a marker and without an end a thought cannot be told from a response.
    cut_off = not opening and not ended
    text += f"\n{draw(spelled)(closing)} yes" if ended else ""
    return thought_format, text, "length" if cut_off else draw(st.sampled_from(["stop", "length"]))


@MANY
@given(direct_outputs(), st.data())
def test_no_character_of_a_thought_is_in_an_answer_without_thinking(output, data):
    thought_format, text, finish = output
    limit = data.draw(st.none() | st.integers(1, 5))
    backend = ScriptedBackend(script(text, cut=data.draw(cuts(text)), finish=finish, logprobs=True))
    deltas, _ = answered(backend, thought_format, think=False, max_tokens=limit)
    assert_nothing_leaked(deltas)
    if limit is None and text.endswith(" yes"):
        assert response(deltas).endswith("yes")


@MANY
@given(st.data())
def test_no_field_of_an_upstream_makes_a_thought_a_response(data):
    """A thought in the text ends with its marker, whatever stands in the other fields."""
    secret = data.draw(SECRET.filter(str.strip))
    text = f"{data.draw(st.sampled_from(['', '<think>']))}{secret}</think>yes"
    chunks = [chunk for chunk in data.draw(cuts(text)) if chunk]
    noise = st.sampled_from(
        [{"reasoning": " "}, {"reasoning_content": "\n\n"}, {"content": ""}, {"role": "assistant"}]
    )
    stream = b"".join(map(event, data.draw(st.lists(noise, max_size=3))))
    sent = ""
    for chunk in chunks:
        stream += event({"content": chunk})
        sent += chunk
        if sent.strip() and data.draw(st.booleans()):
            field = data.draw(st.sampled_from(["reasoning", "reasoning_content"]))
            stream += event({field: SECRETS})
        other = {"index": 1, "delta": {"content": SECRETS}, "finish_reason": None}
        stream += b"data: " + json.dumps({"choices": [other]}).encode() + b"\n\n"
    deltas, _ = answered(ScriptedBackend(read(stream + event({}, "stop"), [])), TAGS)
    assert_nothing_leaked(deltas)
    assert response(deltas) == "yes"


@MANY
@given(outputs(), st.data())
def test_stop_strings_do_not_depend_on_the_chunks(output, data):
    thought_format, text = output
    stop = tuple(data.draw(st.lists(st.text("yes <`\n2+", min_size=1, max_size=3), max_size=3)))
    chunks = data.draw(cuts(text))
    one = ScriptedBackend(script(text, cut=1))
    other = ScriptedBackend(script(text, cut=chunks))
    in_characters, _ = answered(one, thought_format, stop=stop)
    in_chunks, _ = answered(other, thought_format, stop=stop)
    assert response(in_chunks) == response(in_characters)
    assert not any(each in response(in_chunks) for each in stop)


def event(fields, finish_reason=None, newline="\n") -> bytes:
    choice = {"index": 0, "delta": fields, "finish_reason": finish_reason}
    # Escaped, a character beyond the plane is two, and a server may cut between them.
    data = json.dumps({"choices": [choice]}, ensure_ascii=len(str(fields)) % 2 == 0)
    return f": ping{newline}event: message{newline}data: {data}{newline}{newline}".encode(
        "utf-8", "replace"
    )


def read(stream: bytes, edges, *, text_is_response=False) -> Script:
    """The pieces of a stream whose bytes arrive cut at these places."""
    reader, reply = EventReader(), UpstreamReply(text_is_response=text_is_response)
    pieces = []
    for start, end in zip([0, *edges], [*edges, len(stream)], strict=True):
        for data in reader.feed(stream[start:end]):
            piece = reply.read(data)
            pieces += [] if piece is None else [piece]
    return Script(pieces=(*pieces, reply.last()))


def test_what_follows_a_whole_marker_is_the_response():
    """The draw that failed by chance: its "thought" holds a whole marker, so it is none."""
    assert OWN.parse("[[thought]]ANSWER\nћ").response == "ћ"
    assert OWN.parse("[[thought]]ANSWERћ\nћ").response is None


@MANY
@given(outputs(), st.data(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_the_bytes_of_an_upstream_may_be_cut_anywhere(output, data, newline):
    thought_format, text = output
    chunks = data.draw(cuts(text))
    events = [event({"role": "assistant", "content": ""}, None, newline)]
    events += [event({"content": chunk}, None, newline) for chunk in chunks]
    end = f"data: [DONE]{newline}{newline}".encode()
    stream = b"".join([*events, event({}, "stop", newline), end])
    edges = sorted(set(data.draw(st.lists(st.integers(0, len(stream)), max_size=40))))
    if data.draw(st.booleans()):
        edges = list(range(1, len(stream)))
    deltas, _ = answered(ScriptedBackend(read(stream, edges)), thought_format)
    assert response(deltas) == served(thought_format, text).response
    assert_nothing_leaked(deltas)


@MANY
@given(
    st.sampled_from([*THINKING, DIRECT]),
    st.lists(SECRET | st.sampled_from(MARKERS + HALVES), max_size=8),
    WILD,
    st.data(),
)
def test_reasoning_that_an_upstream_took_out_does_not_leak(thought_format, reasoning, text, data):
    field = data.draw(st.sampled_from(["reasoning", "reasoning_content"]))
    certain = data.draw(st.booleans())
    parts = [{field: one} for one in reasoning]
    parts += [{"content": one} for one in data.draw(cuts(text))]
    late = data.draw(st.booleans())
    parts += [{field: SECRETS}] if late else []
    stream = b"".join([*map(event, parts), event({}, "stop")])
    pieces = read(stream, [], text_is_response=certain)
    deltas, _ = answered(ScriptedBackend(pieces), thought_format)
    assert_nothing_leaked(deltas)
    split = thought_format
    if certain:
        split = PLAIN
    elif thought_format is TAGS and "".join(reasoning).strip():
        split = TAGS.unasked()
    assert response(deltas) == served(split, text).response
    shown = "".join(delta.thought for delta in deltas)
    assert "".join(reasoning) in shown
    assert not late or SECRETS in shown


def test_a_thought_cut_off_by_its_budget_is_not_shown():
    """Behind the marker that was put there a weak model goes on thinking, mostly to a marker of its
    own; one that never writes it cannot be told from one that answers."""

    async def answers() -> list[str]:
        backend = EmbeddedBackend(ModelConfig(path="microworld"), slots=8, name="m")
        settings = AnswerSettings(thought_budget=6, attempts=1, without_response="error")
        answerer = SplittingAnswerer(backend, GENERIC, settings)
        found = []
        for seed, prompt in enumerate(microworld_prompts(test=40)):
            asked = question(
                messages=prompt.messages,
                seed=seed,
                temperature=0.8,
                top_p=0.95,
                max_tokens=60,
                top_logprobs=None,
            )
            with suppress(NoResponseError):
                deltas = [one async for one in answerer.answer(asked)]
                found.append(
                    "".join(delta.response for delta in deltas if isinstance(delta, AnswerDelta))
                )
        await backend.close()
        return found

    found = asyncio.run(answers())
    assert len(found) >= 30
    sentences = (*VAGUE_SENTENCES, *RAMBLING_SENTENCES, *WORKED_OPENERS, *LEAP_OPENERS)
    shown = [text for text in found if any(sentence.strip() in text for sentence in sentences)]
    assert len(shown) <= 2, shown
