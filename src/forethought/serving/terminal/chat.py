"""`forethought chat`: talk with a model in the terminal, its thought out of sight.

The other side is any OpenAI-compatible endpoint, or a local model through an `Answerer`. While it
thinks a line counts the seconds and vanishes. Ctrl-C stops an answer, Ctrl-D ends the chat. Pasted
text is one message, however many lines it has. What is not typed at a terminal is one message too:
`forethought chat URL < question.txt` prints the answer and ends.

    chat(ServedModel("http://localhost:8000", api_key=None), Console())

Nothing is kept but what `history` names, which holds the lines that were typed.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.live import Live
from rich.text import Text

from forethought.progress.harmless import harmless
from forethought.serving.terminal.chat_models import ChatError, ChatModel, ReplyDelta
from forethought.types import Message

DIRECT_HELP = "/direct    turn thinking off, or on again\n"
"""Where that is possible."""
HELP = """\
/thought   show the thought behind the last answer
{direct}/clear     forget the conversation
/help      these lines
/quit      end, as Ctrl-D does
Ctrl-C stops an answer. Alt-Enter begins a new line; pasted text is one message."""
COMMAND = re.compile(r"/[a-z]+")


@dataclass
class Conversation:
    """What was said, and how the next answer is to be given.

    Example: `Conversation(turns=[Message(role="user", content="Hi")], think=True, thought="")`
    """

    turns: list[Message] = field(default_factory=list)
    think: bool = True
    thought: str = ""
    """Behind the last answer; empty where none was shown to us."""


def chat(model: ChatModel, console: Console, *, history: Path | None = None) -> None:
    """Talk until Ctrl-D or /quit; `history` is a file that keeps what was typed.

    Raises: ValueError if the history cannot be kept, or if one piped message was not answered.
    """
    conversation = Conversation()
    with asyncio.Runner() as runner:
        try:
            if sys.stdin.isatty():
                session = _session(history)
                _note(console, f"{model.name} · /help for help")
                while (typed := _typed(session, conversation)) is not None:
                    if not _obey(typed, model, conversation, console):
                        break
                    if not COMMAND.fullmatch(typed):
                        _converse(runner, model, conversation, typed, console)
            elif typed := sys.stdin.read().strip():
                conversation.turns.append(Message(role="user", content=typed))
                try:
                    runner.run(_answer(model, conversation, console, ShownAnswer()))
                except ChatError as error:
                    raise ValueError(str(error)) from None
        finally:
            runner.run(model.close())


def _session(history: Path | None) -> PromptSession[str]:
    if history is None:
        kept = InMemoryHistory()
    else:
        try:
            history.touch(mode=0o600)
        except OSError as error:
            raise ValueError(f"history: {history} cannot be written: {error.strerror}") from None
        kept = FileHistory(str(history))
    return PromptSession(history=kept, multiline=True, key_bindings=_keys())


def _keys() -> KeyBindings:
    """Enter sends although a message may have several lines."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _typed(session: PromptSession[str], conversation: Conversation) -> str | None:
    """The next message or command, `None` at the end. Ctrl-C drops what was begun."""
    while True:
        sign = HTML("<b>&gt; </b>") if conversation.think else HTML("<b>direct&gt; </b>")
        try:
            typed = session.prompt(sign).strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            continue
        if typed:
            return typed


def _obey(typed: str, model: ChatModel, conversation: Conversation, console: Console) -> bool:
    """Do what a command says; `False` where the chat is to end. A message is none."""
    match typed:
        case "/quit" | "/exit":
            return False
        case "/help":
            _note(console, HELP.format(direct=DIRECT_HELP if model.can_answer_directly else ""))
        case "/clear":
            conversation.turns.clear()
            conversation.thought = ""
            _note(console, "The conversation is forgotten.")
        case "/direct" if not model.can_answer_directly:
            _note(console, "Thinking cannot be turned off here.")
        case "/direct":
            conversation.think = not conversation.think
            _note(console, f"Thinking is {'on' if conversation.think else 'off'}.")
        case "/thought":
            none = "No thought was shown to us: a server shows it to keys with that right alone."
            _note(console, conversation.thought or none)
        case _ if COMMAND.fullmatch(typed):
            _note(console, f"There is no {typed}; /help lists what there is.")
    return True


@dataclass
class ShownAnswer:
    """An answer as far as it has come.

    Example: `ShownAnswer(response="It is", thought="17 + 25 is 42.", finish_reason=None)`
    """

    response: str = ""
    thought: str = ""
    finish_reason: str | None = None


def _converse(
    runner: asyncio.Runner,
    model: ChatModel,
    conversation: Conversation,
    typed: str,
    console: Console,
) -> None:
    """One message and its answer. A message without any answer is forgotten, to be sent again."""
    conversation.turns.append(Message(role="user", content=typed))
    answer = ShownAnswer()
    try:
        runner.run(_answer(model, conversation, console, answer))
    except KeyboardInterrupt:
        _note(console, "\n(stopped)" if answer.response else "(stopped)")
    except ChatError as error:
        _note(console, ("\n" if answer.response else "") + str(error))
    conversation.thought = answer.thought
    if answer.response:
        conversation.turns.append(Message(role="assistant", content=answer.response))
    else:
        conversation.turns.pop()


async def _answer(
    model: ChatModel, conversation: Conversation, console: Console, answer: ShownAnswer
) -> None:
    """Show the answer as it comes, and gather it."""
    replies = model.reply(tuple(conversation.turns), conversation.think)
    label = "thinking" if conversation.think else "waiting"
    async with aclosing(replies):
        async with _counting(label, console):
            first = await _first_words(replies, answer)
        _say(console, first)
        async for delta in replies:
            _gather(answer, delta)
            _say(console, delta.response)
    _say(console, "\n" if answer.response else "")
    if not answer.response:
        _note(console, "(no answer)")
    elif answer.finish_reason == "length":
        _note(console, "(cut at the token limit)")


async def _first_words(replies: AsyncIterator[ReplyDelta], answer: ShownAnswer) -> str:
    async for delta in replies:
        _gather(answer, delta)
        if delta.response:
            return delta.response
    return ""


@asynccontextmanager
async def _counting(label: str, console: Console) -> AsyncIterator[None]:
    """A line that says for how long nothing was said, and vanishes at the end."""

    async def count() -> None:
        for seconds in itertools.count(1):
            await asyncio.sleep(1)
            line.update(Text(f"{label}… {seconds} s", style="dim"), refresh=True)

    if not console.is_terminal:
        yield
        return
    with Live(console=console, transient=True, auto_refresh=False) as line:
        counter = asyncio.create_task(count())
        try:
            yield
        finally:
            counter.cancel()


def _gather(answer: ShownAnswer, delta: ReplyDelta) -> None:
    answer.response += delta.response
    answer.thought += delta.thought
    answer.finish_reason = delta.finish_reason or answer.finish_reason


def _say(console: Console, text: str) -> None:
    console.out(harmless(text), end="", highlight=False)


def _note(console: Console, text: str) -> None:
    console.print(Text(harmless(text)), style="dim", highlight=False)
