"""From raw outputs to answers: limits, stop strings, budgets, attempts, what is counted."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from scripted_backend import Script, ScriptedBackend, script, token_logprob

from forethought.serving.answerer import AHEAD, SplittingAnswerer
from forethought.serving.backends.base import (
    AnswerDelta,
    AnswerEnd,
    AnswerRequest,
    AnswerSettings,
    BackendError,
    NoResponseError,
    Piece,
    RefusedDrawError,
)
from forethought.thoughts import DIRECT, GENERIC, SPECIFIC, TAGS, ThoughtFormat
from forethought.types import Message

SETTINGS = AnswerSettings(thought_budget=None, attempts=3, without_response="error")
ENDS_A_LINE = ThoughtFormat(
    name="own", instruction="Think.", response_starts_after=("[[answer]]", "ANSWER\n")
)
HI = (Message(role="user", content="Hi"),)


def question(**fields) -> AnswerRequest:
    given = {
        "messages": HI,
        "think": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": 17,
        "max_tokens": None,
        "stop": (),
        "top_logprobs": None,
    }
    return AnswerRequest(**{**given, **fields})


def settings(**fields) -> AnswerSettings:
    given = {"thought_budget": None, "attempts": 3, "without_response": "error"}
    return AnswerSettings(**{**given, **fields})


def answered(backend, thought_format, chosen=SETTINGS, **fields):
    """All deltas and the end of one answer."""

    async def collect():
        answerer = SplittingAnswerer(backend, thought_format, chosen)
        return [part async for part in answerer.answer(question(**fields))]

    *parts, end = asyncio.run(collect())
    assert isinstance(end, AnswerEnd)
    deltas = [part for part in parts if isinstance(part, AnswerDelta)]
    assert len(deltas) == len(parts)
    assert backend.open == 0
    return deltas, end


def response(deltas) -> str:
    return "".join(delta.response for delta in deltas)


def thought(deltas) -> str:
    return "".join(delta.thought for delta in deltas)


def test_a_thought_and_a_response_come_apart():
    backend = ScriptedBackend(script("hm, 2 + 3 <R> It is 5.\n"))
    deltas, end = answered(backend, SPECIFIC)
    assert (response(deltas), thought(deltas)) == ("It is 5.", "hm, 2 + 3")
    # Six pieces of four characters and the end token; the response begins in the fourth.
    assert end == AnswerEnd(
        finish_reason="stop", prompt_tokens=10, completion_tokens=7, reasoning_tokens=3, attempts=1
    )


def test_the_instruction_is_given_and_earlier_thoughts_are_not():
    history = (
        Message(role="system", content="Be kind."),
        Message(role="user", content="1?"),
        Message(role="assistant", content="secret <R> one"),
        Message(role="user", content="2?"),
    )
    backend = ScriptedBackend(script("x <R> y"))
    answered(backend, SPECIFIC, messages=history)
    answered(backend, SPECIFIC, messages=history, think=False)
    thinking, direct = backend.draws
    assert [message.content for message in thinking.messages] == [
        "Be kind.",
        "1?",
        "one",
        f"{SPECIFIC.instruction}\n\nUser query: 2?",
    ]
    assert [message.content for message in direct.messages] == ["Be kind.", "1?", "one", "2?"]


@pytest.mark.parametrize("messages", [(), (Message(role="assistant", content="Hello"),)])
@pytest.mark.parametrize("think", [True, False])
def test_a_conversation_without_a_question_is_refused(messages, think):
    with pytest.raises(RefusedDrawError, match="must end with a user message"):
        answered(ScriptedBackend(script("x")), SPECIFIC, messages=messages, think=think)


def test_a_direct_answer_streams_at_once_and_counts_no_thought():
    backend = ScriptedBackend(script("abc", cut=1))
    deltas, end = answered(backend, GENERIC, think=False, max_tokens=3)
    assert [delta.response for delta in deltas] == ["a", "b", "c"]
    assert (end.finish_reason, end.completion_tokens, end.reasoning_tokens) == ("length", 3, 0)
    assert backend.draws[0].max_tokens == 3


def test_a_model_that_thinks_unasked_shows_no_thought():
    text = "Here is my thought process: secret Here is my response: 5"
    deltas, end = answered(ScriptedBackend(script(text)), GENERIC, think=False)
    assert (response(deltas), thought(deltas)) == ("5", "secret")
    assert end.reasoning_tokens == 14
    deltas, _ = answered(ScriptedBackend(script("Here is", cut=1)), GENERIC, think=False)
    assert response(deltas) == "Here is"


@pytest.mark.parametrize("cut", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Sure. Here is my thought process: secret", "Sure."),
        ("Sure. here's my thought process: secret Here is my response: 5", "Sure.  5"),
        ("# HERE IS MY THOUGHT PROCESS: secret\nHERE IS MY RESPONSE: 5", "5"),
        ("Yes.\n\n**Here is my thought process:**\nsecret", "Yes."),
        ("Yes <Think>secret</THINK> it is", "Yes  it is"),
        ("It says `<think>` there.", "It says `<think>` there."),
    ],
)
def test_an_answer_without_thinking_is_watched_for_thoughts(text, shown, cut):
    for finish in ("stop", "length"):
        backend = ScriptedBackend(script(text, cut=cut, finish=finish))
        deltas, end = answered(backend, GENERIC, think=False)
        assert (response(deltas), end.finish_reason, end.attempts) == (shown, finish, 1)


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_an_answer_without_thinking_is_held_back_where_no_marker_begins_a_thought(cut):
    def direct(text, thought_format=SPECIFIC, **fields):
        backend = ScriptedBackend(script(text, cut=cut, **fields))
        return answered(backend, thought_format, think=False)

    deltas, end = direct("secret <R> It is 5.")
    assert (response(deltas), thought(deltas)) == ("It is 5.", "secret")
    # A piece across the border counts as response.
    assert (end.reasoning_tokens > 0) == (cut < 100)
    deltas, end = direct("secret <r>\n\nIt is 5.")
    assert (response(deltas), thought(deltas)) == ("It is 5.", "secret")
    deltas, end = direct("It is 5.")
    assert (response(deltas), end.reasoning_tokens) == ("It is 5.", 0)
    deltas, _ = direct("<think>secret</think>It is 5.")
    assert response(deltas) == "It is 5."
    with pytest.raises(NoResponseError):
        direct("secret that goes on", finish="length")
    optional = TAGS.model_copy(update={"instruction": "Think."})
    deltas, _ = direct("secret</think>It is 5.", optional)
    assert (response(deltas), thought(deltas)) == ("It is 5.", "secret")


def test_an_answer_without_thinking_that_may_be_a_thought_is_not_cut_off_into_a_response():
    backend = ScriptedBackend(script("secret that goes on", cut=1))
    with pytest.raises(NoResponseError):
        answered(backend, SPECIFIC, think=False, max_tokens=5)
    with_entries = ScriptedBackend(script("ab <R>yes", cut=["ab ", "<R>", "yes"], logprobs=True))
    deltas, end = answered(with_entries, SPECIFIC, think=False, max_tokens=4, top_logprobs=0)
    assert [entry.token for delta in deltas for entry in delta.logprobs] == ["yes"]
    assert (end.reasoning_tokens, end.completion_tokens) == (2, 4)


def test_a_model_that_always_thinks_cannot_be_asked_not_to():
    with pytest.raises(RefusedDrawError, match="cannot be asked not to think"):
        answered(ScriptedBackend(script("x</think>y")), TAGS, think=False)
    for think in (True, False):
        backend = ScriptedBackend(script("<think>x</think>y"))
        deltas, end = answered(backend, DIRECT, think=think)
        assert (response(deltas), thought(deltas)) == ("y", "x")
        assert end.reasoning_tokens == 4


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_a_further_thought_is_taken_out_of_a_response(cut):
    text = "<think>x</think>one **two** <think>secret</think> three"
    backend = ScriptedBackend(script(text, cut=cut, logprobs=True))
    deltas, end = answered(backend, TAGS, top_logprobs=0)
    assert (response(deltas), thought(deltas)) == ("one **two**  three", "x\n\nsecret")
    entries = "".join(e.token for delta in deltas for e in delta.logprobs)
    assert entries.strip() in "one **two**"
    if cut == 1:
        # From the piece that completes the marker.
        assert end.reasoning_tokens == len("<think>x</think>") + len(">secret</think>")


ANEW = "hm <R>secret\n<R> Paris is it. STOP"


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_whole_answer_begins_behind_the_last_response_marker(cut):
    backend = ScriptedBackend(script(ANEW, cut=cut, logprobs=True))
    deltas, end = answered(backend, SPECIFIC, whole=True, top_logprobs=0, stop=("STOP",))
    assert [delta.response for delta in deltas if delta.response] == ["Paris is it. "]
    assert "secret" not in "".join(e.token for delta in deltas for e in delta.logprobs)
    assert end.finish_reason == "stop"
    streamed, other = answered(ScriptedBackend(script(ANEW, cut=cut)), SPECIFIC, stop=("STOP",))
    assert response(streamed) == "secretParis is it. "
    assert other.reasoning_tokens == end.reasoning_tokens
    backend = ScriptedBackend(script(ANEW, cut=cut))
    held, _ = answered(backend, SPECIFIC, settings(hold_answers=True), stop=("STOP",))
    assert response(held) == "Paris is it. "


def test_a_response_that_proves_a_thought_and_ends_is_drawn_again_where_it_was_not_shown():
    backend = ScriptedBackend(script("hm <R>secret\n<R>"), script("hm <R>Paris."))
    deltas, end = answered(backend, SPECIFIC, whole=True)
    assert (response(deltas), end.attempts) == ("Paris.", 2)
    backend = ScriptedBackend(script("hm <R>secret\n<R>"), script("hm <R>Paris."))
    deltas, end = answered(backend, SPECIFIC)
    assert (response(deltas), end.attempts) == ("secret", 1)


def test_what_only_looks_like_a_further_thought_is_shown_at_the_end():
    text = "<think>x</think>Write <think> there."
    deltas, end = answered(
        ScriptedBackend(script(text, cut=1, logprobs=True)), TAGS, top_logprobs=0
    )
    assert response(deltas) == "Write <think> there."
    assert "".join(e.token for delta in deltas for e in delta.logprobs) == "Write <think> there."
    assert end.reasoning_tokens == len("<think>x</think>")
    cut_off = ScriptedBackend(script(text, cut=1, finish="length"))
    deltas, _ = answered(cut_off, TAGS)
    assert response(deltas) == "Write"


def test_markdown_around_a_marker_is_not_shown():
    text = "**Here’s my thought process:**\nhm\n\n**Here’s my response:**\nParis."
    for cut in (1, 4, 100):
        deltas, _ = answered(ScriptedBackend(script(text, cut=cut)), GENERIC)
        assert (response(deltas), thought(deltas)) == ("Paris.", "hm")


def test_a_thought_cut_off_inside_a_fenced_block_can_be_ended():
    backend = ScriptedBackend(script("```\nx = 1\nyyy", cut=14), script(" yes"), can_continue=True)
    deltas, _ = answered(backend, SPECIFIC, settings(thought_budget=1))
    assert response(deltas) == "yes"
    assert backend.draws[-1].begun.endswith("\n```\n\n<R>")


def test_tags_whose_opening_one_is_in_the_prompt():
    deltas, _ = answered(ScriptedBackend(script("hm\n</think>\n\nyes")), TAGS)
    assert (response(deltas), thought(deltas)) == ("yes", "hm")


def test_a_format_of_ones_own():
    mine = ThoughtFormat(
        name="mine", instruction="Think, then ANSWER:", response_starts_after=("ANSWER:",)
    )
    deltas, _ = answered(ScriptedBackend(script("well ANSWER: yes", cut=1)), mine)
    assert response(deltas) == "yes"


def test_max_tokens_is_of_the_response_and_ends_the_draw():
    backend = ScriptedBackend(
        script("a b <R> one two three", cut=["a b ", "<R>", " one", " two", " three"], delay=0.001)
    )
    deltas, end = answered(backend, SPECIFIC, settings(thought_budget=100), max_tokens=2)
    assert response(deltas) == "one two"
    assert (end.finish_reason, end.completion_tokens, end.reasoning_tokens) == ("length", 4, 2)
    assert backend.draws[0].max_tokens == 102
    assert backend.cut_short == 1


def test_a_piece_across_the_marker_counts_as_response_whole():
    backend = ScriptedBackend(script("ab <R> one two", cut=["ab ", "<R> one", " two"]))
    deltas, end = answered(backend, SPECIFIC, max_tokens=1)
    assert response(deltas) == "one"
    assert (end.completion_tokens, end.reasoning_tokens) == (2, 1)


@pytest.mark.parametrize(
    ("limit", "budget", "asked"), [(5, 10, 15), (5, None, None), (None, 10, None)]
)
def test_the_backend_is_asked_for_what_both_sides_may_take(limit, budget, asked):
    backend = ScriptedBackend(script("a <R> b"))
    answered(backend, SPECIFIC, settings(thought_budget=budget), max_tokens=limit)
    assert backend.draws[0].max_tokens == asked


@pytest.mark.parametrize("cut", [1, 2, 3, 50])
@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        (("STOP",), "one \n"),
        (("S", "STOP"), "one \n"),
        (("\n\n",), "one \nSTOP two"),
        (("\nS",), "one "),
        (("nothing", "STOPS"), "one \nSTOP two\n\nthree"),
        (("ne", "one"), ""),
        (("two", "e"), "on"),
    ],
)
def test_stop_strings_end_the_response_and_not_the_thought(stop, shown, cut):
    text = "STOP \n\n two one <R> one \nSTOP two\n\nthree"
    backend = ScriptedBackend(script(text, cut=cut))
    deltas, end = answered(backend, SPECIFIC, stop=stop)
    assert response(deltas) == shown
    assert end.finish_reason == "stop"
    assert end.attempts == 1


def test_the_beginning_of_a_stop_string_is_shown_when_nothing_follows():
    for finish in ("stop", "length"):
        backend = ScriptedBackend(script("x <R> one ST", cut=1, finish=finish))
        deltas, end = answered(backend, SPECIFIC, stop=("STOP",))
        assert (response(deltas), end.finish_reason) == ("one ST", finish)


def test_an_output_without_a_response_is_drawn_again_with_its_own_seed():
    backend = ScriptedBackend(script("no marker"), script("empty <R> \n"), script("x <R> y"))
    deltas, end = answered(backend, SPECIFIC)
    assert response(deltas) == "y"
    assert thought(deltas) == "no marker\n\nempty\n\nx"
    assert end.attempts == 3
    seeds = [draw.seed for draw in backend.draws]
    assert seeds[0] == 17
    assert len(set(seeds)) == 3
    # 3 + 1, 3 + 1 (none of them response), 1 before and 1 + 1 in the response.
    assert (end.completion_tokens, end.reasoning_tokens) == (11, 9)
    again = ScriptedBackend(script("no"), script("no"), script("x <R> y"))
    answered(again, SPECIFIC)
    assert [draw.seed for draw in again.draws] == seeds


def test_without_a_seed_no_attempt_has_one():
    backend = ScriptedBackend(script("no"), script("x <R> y"))
    answered(backend, SPECIFIC, seed=None)
    assert [draw.seed for draw in backend.draws] == [None, None]


def test_no_response_at_all_is_an_error_or_an_empty_message():
    backend = ScriptedBackend(script("secret"))
    with pytest.raises(NoResponseError) as failed:
        answered(backend, SPECIFIC)
    assert "3 outputs" in str(failed.value)
    assert "secret" not in str(failed.value)
    assert len(backend.draws) == 3
    deltas, end = answered(backend, SPECIFIC, settings(without_response="empty", attempts=2))
    assert response(deltas) == ""
    assert (end.finish_reason, end.attempts) == ("length", 2)
    assert end.completion_tokens == end.reasoning_tokens == 6


def test_what_is_shown_is_not_drawn_again():
    backend = ScriptedBackend(script("x <R> hal", finish="length"), script("x <R> whole"))
    deltas, end = answered(backend, SPECIFIC)
    assert (response(deltas), end.finish_reason, end.attempts) == ("hal", "length", 1)


def test_a_spent_thought_budget_makes_the_model_start_its_response():
    backend = ScriptedBackend(
        script("on and on and on", delay=0.001), script(" yes it is"), can_continue=True
    )
    deltas, end = answered(backend, SPECIFIC, settings(thought_budget=2), max_tokens=9)
    assert (response(deltas), thought(deltas)) == ("yes it is", "on and o")
    first, second = backend.draws
    assert (first.max_tokens, second.max_tokens) == (11, 9)
    assert second.begun == "on and o\n\n<R>"
    assert second.messages == first.messages
    assert second.seed not in (None, first.seed)
    assert backend.cut_short == 1
    assert (end.attempts, end.reasoning_tokens, end.completion_tokens) == (1, 2, 6)
    # The second conversation holds two tokens that the model wrote.
    assert end.prompt_tokens == 10


@pytest.mark.parametrize("thought_format", [SPECIFIC, GENERIC])
def test_a_model_that_goes_on_thinking_behind_a_forced_marker_is_not_shown(thought_format):
    marker = thought_format.response_starts_after[0]
    going_on = f" secret still {marker} yes it is"
    backend = ScriptedBackend(
        script("secret on and on"), script(going_on, cut=4, logprobs=True), can_continue=True
    )
    deltas, end = answered(backend, thought_format, settings(thought_budget=2), top_logprobs=0)
    assert response(deltas) == "yes it is"
    assert "secret still" in thought(deltas)
    assert "secret" not in "".join(e.token for delta in deltas for e in delta.logprobs)
    written = -(-len(going_on) // 4)
    assert end.completion_tokens - 2 == written + 1, "the end token is one"
    assert end.reasoning_tokens > 2


def test_a_forced_response_that_reaches_its_limit_is_shown():
    backend = ScriptedBackend(
        script("on and on and on"), script(" yes it is and <R> not", cut=3), can_continue=True
    )
    deltas, end = answered(backend, SPECIFIC, settings(thought_budget=2), max_tokens=3)
    assert (response(deltas), end.finish_reason) == ("yes it i", "length")


@pytest.mark.parametrize(
    ("thought_format", "text", "begun"),
    [
        (GENERIC, "Sure", "Sure\n\nHere is my thought process:\nHere is my response:"),
        (GENERIC, "", "Here is my thought process:\nHere is my response:"),
        (TAGS, "<think>a\n", "<think>a\n\n</think>"),
        (TAGS, "<th", "<th\n\n</think>"),
        (SPECIFIC, "a <R", "a <R\n\n<R>"),
        (SPECIFIC, 'It surely is "5." The user', 'It surely is "5."\n\n<R>'),
        (SPECIFIC, "Hm. The user wants an answer", "Hm. The user wants an answer\n\n<R>"),
        (ENDS_A_LINE, "so ANSWER", "so ANSWER [[answer]]"),
    ],
)
def test_the_markers_that_end_a_thought(thought_format, text, begun):
    budget = 1 if text else 0
    long = script(text + "zzz", cut=[text, "zzz"] if text else 3)
    first = [long] if text else []
    backend = ScriptedBackend(*first, script("yes"), can_continue=True)
    deltas, _ = answered(backend, thought_format, settings(thought_budget=budget))
    assert backend.draws[-1].begun == begun
    assert response(deltas) == "yes"


def test_a_marker_that_came_with_the_last_budgeted_token_is_enough():
    backend = ScriptedBackend(
        script("ab.<R> \n yes", cut=["ab.", "<R>", " \n", " yes"]), can_continue=True
    )
    deltas, _ = answered(backend, SPECIFIC, settings(thought_budget=2))
    assert (response(deltas), len(backend.draws)) == ("yes", 1)


def test_without_going_on_a_spent_budget_is_an_output_without_response():
    backend = ScriptedBackend(script("on and on and on", delay=0.001), script("x <R> y"))
    deltas, end = answered(backend, SPECIFIC, settings(thought_budget=2))
    assert (response(deltas), end.attempts) == ("y", 2)
    assert backend.cut_short == 1


def test_a_silent_backend_gets_a_sign_of_life():
    backend = ScriptedBackend(script("x.<R>y", cut=5, delay=1.3))
    deltas, _ = answered(backend, SPECIFIC)
    silent = [delta for delta in deltas if not delta.response and not delta.thought]
    assert len(silent) >= 3
    assert response(deltas) == "y"
    assert backend.cut_short == 0


def test_pieces_that_say_nothing_are_signs_of_life_too():
    backend = ScriptedBackend(script(" " * 80 + "x.<R>y", cut=1, delay=0.02))
    deltas, _ = answered(backend, SPECIFIC)
    silent = [delta for delta in deltas if not delta.response and not delta.thought]
    assert 2 <= len(silent) < 40, "a sign now and then, not one for each of 80 pieces"


def test_closing_an_answer_closes_the_draw_while_it_waits():
    async def close_early():
        backend = ScriptedBackend(script("thinking", delay=30))
        answer = SplittingAnswerer(backend, SPECIFIC, SETTINGS).answer(question())
        await anext(answer)
        assert backend.open == 1
        await asyncio.wait_for(answer.aclose(), 20)
        return backend.open, backend.cut_short

    assert asyncio.run(close_early()) == (0, 1)


def test_cancelling_whoever_reads_closes_the_draw():
    async def cancel():
        backend = ScriptedBackend(script("thinking", delay=30))
        answerer = SplittingAnswerer(backend, SPECIFIC, SETTINGS)

        async def read():
            async for _ in answerer.answer(question()):
                pass

        readers = [asyncio.create_task(read()) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert backend.open == 50
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        return backend.open

    assert asyncio.run(cancel()) == 0


def test_a_slow_reader_makes_the_backend_wait():
    async def read_slowly():
        backend = ScriptedBackend(script("x.<R>" + "y" * 10 * AHEAD, cut=1))
        written = 0

        async def counting(draw) -> AsyncGenerator[Piece, None]:
            nonlocal written
            async for piece in ScriptedBackend.draw(backend, draw):
                written += 1
                yield piece

        backend.draw = counting  # type: ignore[method-assign]
        answer = SplittingAnswerer(backend, SPECIFIC, SETTINGS).answer(question())
        await anext(answer)
        await asyncio.sleep(0.1)
        held = written
        rest = [part async for part in answer]
        return held, rest[-1]

    held, end = asyncio.run(read_slowly())
    assert held <= AHEAD + 2
    assert isinstance(end, AnswerEnd)
    assert end.finish_reason == "stop"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (BackendError("the server is gone"), BackendError, "the server is gone"),
        (RefusedDrawError("9 tokens; the model takes 8"), RefusedDrawError, "9 tokens"),
        (ValueError("secret thought"), BackendError, "ValueError (scripted_backend.py, line "),
    ],
)
def test_errors_hold_nothing_of_an_output(error, kind, words):
    error.__context__ = ValueError("secret")
    backend = ScriptedBackend(script("a secret", finish=None, error=error))
    with pytest.raises(kind) as failed:
        answered(backend, SPECIFIC)
    assert words in str(failed.value)
    assert "secret" not in str(failed.value)
    assert failed.value.__context__ is None
    assert failed.value.__cause__ is None
    assert backend.open == 0


def test_an_output_without_an_end_is_an_error():
    with pytest.raises(BackendError, match="unfinished"):
        answered(ScriptedBackend(script("x <R> y", finish=None)), SPECIFIC)


def test_logprobs_are_of_the_response_alone():
    cuts = ["hm ", "<R", ">", "\n", " It", " is", "\n", "5", ".", "\n"]
    backend = ScriptedBackend(script("".join(cuts), cut=cuts, logprobs=True))
    deltas, _ = answered(backend, SPECIFIC, top_logprobs=2)
    tokens = [entry.token for delta in deltas for entry in delta.logprobs]
    assert tokens == [" It", " is", "\n", "5", "."]
    without = ScriptedBackend(script("".join(cuts), cut=cuts, logprobs=True))
    deltas, _ = answered(without, SPECIFIC)
    assert not any(delta.logprobs for delta in deltas)


def piece(text, tokens, finish_reason=None) -> Piece:
    return Piece(
        text=text,
        tokens=len(tokens),
        logprobs=tuple(map(token_logprob, tokens)),
        prompt_tokens=None,
        finish_reason=finish_reason,
    )


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        # A piece of several tokens across the border.
        ([piece("hm.<R> It is", ["hm.", "<R", ">", " It", " is"])], [" It", " is"]),
        # A token that holds the marker's end.
        ([piece("hm.<R>It is", ["hm.<", "R>It", " is"])], [" is"]),
        # Fragments of a character stand for it together.
        (
            [piece("<R>a", ["<R>", "a"]), piece("🙂", ["\ufffd", "\ufffd"])],
            ["a", "\ufffd", "\ufffd"],
        ),
        # Tokens that are not those of the text.
        ([piece("<R>a", ["<R>", "a"]), piece("b", ["hm", "b"])], ["a"]),
    ],
)
def test_where_the_border_runs_through_a_piece(pieces, tokens):
    backend = ScriptedBackend(Script(pieces=(*pieces, piece("", ["<end>"], "stop"))))
    deltas, _ = answered(backend, SPECIFIC, top_logprobs=0)
    assert [entry.token for delta in deltas for entry in delta.logprobs] == tokens


def test_logprobs_go_out_with_their_text_and_end_with_it():
    cuts = ["hm.<R>", "one", " ST", "x two", " ST", "OP", " three"]
    backend = ScriptedBackend(script("".join(cuts), cut=cuts, logprobs=True))
    deltas, _ = answered(backend, SPECIFIC, top_logprobs=0, stop=("STOP",))
    assert response(deltas) == "one STx two "
    shown = ""
    for delta in deltas:
        shown += delta.response
        assert len("".join(entry.token for entry in delta.logprobs)) <= len(shown)
    assert [e.token for one in deltas for e in one.logprobs] == ["one", " ST", "x two"]


def reasoned(reasoning, text, *, certain=False, finish_reason=None) -> Piece:
    return Piece(
        text=text,
        tokens=1,
        logprobs=(token_logprob(reasoning or text),),
        prompt_tokens=None,
        finish_reason=finish_reason,
        reasoning=reasoning,
        text_is_response=certain,
    )


@pytest.mark.parametrize(
    ("thought_format", "certain", "text", "shown"),
    [
        (TAGS, False, "</think> yes", "yes"),
        (GENERIC, True, "Here is my response: yes", "Here is my response: yes"),
        (DIRECT, False, "</think> yes", "yes"),
        (DIRECT, True, "<think> yes", "<think> yes"),
    ],
)
def test_reasoning_that_a_server_took_out_never_is_response(thought_format, certain, text, shown):
    pieces = (
        reasoned("Here is my thought process: x</think> Here is my response: <R> s", ""),
        reasoned("ecret", text, certain=certain),
        reasoned("late secret", ""),
        reasoned("", " indeed", certain=certain),
        reasoned("", "", certain=certain, finish_reason="stop"),
    )
    backend = ScriptedBackend(Script(pieces=pieces))
    deltas, end = answered(backend, thought_format, top_logprobs=0)
    assert response(deltas) == f"{shown} indeed"
    assert thought(deltas).endswith("secretlate secret")
    assert [e.token for delta in deltas for e in delta.logprobs] == [" indeed"]
    assert end.reasoning_tokens == 2


def test_reasoning_of_a_server_that_does_not_know_the_format_is_thought_beside_its_own():
    pieces = (
        reasoned("secret <R> secret", ""),
        reasoned("", "draft <R> yes"),
        reasoned("", "", finish_reason="stop"),
    )
    backend = ScriptedBackend(Script(pieces=pieces))
    deltas, _ = answered(backend, SPECIFIC)
    assert (response(deltas), thought(deltas)) == ("yes", "secret <R> secretdraft")


@pytest.mark.parametrize(
    ("reasoning", "text", "shown"),
    [
        # Nothing but white space says nothing about the text.
        ([" \n"], "secret</think>yes", "yes"),
        # Text that comes first is split as ever.
        (["", "secret"], "secret</think>yes", "yes"),
        # What the server left in the text is still watched.
        (["secret"], "yes <think>secret</think>it is", "yes it is"),
        (["secret"], "<think>secret</think>yes", "yes"),
    ],
)
def test_when_reasoning_says_that_the_text_is_the_response(reasoning, text, shown):
    half = len(text) // 2 - 4
    pieces = [reasoned(words, "") for words in reasoning[:1] if words]
    pieces += [reasoned("", text[:half]), *(reasoned(words, "") for words in reasoning[1:])]
    pieces += [reasoned("", text[half:]), reasoned("", "", finish_reason="stop")]
    deltas, _ = answered(ScriptedBackend(Script(pieces=tuple(pieces))), TAGS)
    assert response(deltas).replace("  ", " ") == shown
    assert "".join(reasoning).strip() in thought(deltas)


def test_a_server_that_begins_its_output_anew_gives_no_response():
    first = "The user wants to know what two and three are, so I add them. And on and on"
    again = ScriptedBackend(
        script(first, delay=0.001, cut=62), script(first, cut=5), can_continue=True
    )
    with pytest.raises(NoResponseError):
        answered(again, SPECIFIC, settings(thought_budget=1, attempts=1), max_tokens=9)
