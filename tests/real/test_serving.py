"""The server on a real model says what the model says, and no word of its thought."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest
from real_server import ROUNDING, Greedy, ask, ask_streamed, served
from rich.console import Console

from forethought.config import ModelConfig
from forethought.progress.reporter import Reporter
from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.backends.base import AnswerSettings
from forethought.serving.backends.embedded import EmbeddedBackend
from forethought.serving.http.server import run_server
from forethought.serving.http.settings import ServerSettings
from forethought.thoughts import DIRECT, ThoughtFormat

pytestmark = pytest.mark.real

IS = ThoughtFormat(
    name="is", instruction="Answer in one short sentence.", response_starts_after=(" is",)
)
"""Whatever follows the first "is" is the response: a marker that the model does write."""
QUESTIONS = (
    "What is the opposite of big?",
    "What is the capital of Japan?",
    "What is the capital of Egypt?",
)


@pytest.fixture(scope="module")
def greedy(real_model: Path) -> Greedy:
    return Greedy(real_model)


def test_the_command_hides_the_thought_and_gives_the_models_answer(real_model, greedy, tmp_path):
    written = tmp_path / "is.yaml"
    written.write_text(IS.model_dump_json())
    with served(str(real_model), "--thought-format", str(written)) as server:
        replies = [(ask(server, one), ask_streamed(server, one)) for one in QUESTIONS]
    clear = 0
    for question, ((whole, body), (streamed, pieces)) in zip(QUESTIONS, replies, strict=True):
        assert whole == streamed != ""
        text, lead = greedy.answer(question, IS)
        parsed = IS.parse(text)
        assert parsed.thought
        assert parsed.thought not in body + pieces
        if lead > ROUNDING:
            clear += 1
            assert whole == parsed.response
    assert clear, "where rounding may decide every answer, nothing is shown"


def test_in_float32_it_is_transformers_greedy_answer(real_model, greedy):
    backend = EmbeddedBackend(
        ModelConfig(path=str(real_model), dtype="float32", device="cpu"), slots=4, name="real"
    )
    assert backend.slow_reason is None
    answerer = SplittingAnswerer(
        backend, DIRECT, AnswerSettings(thought_budget=None, attempts=1, without_response="error")
    )
    started: Queue[tuple[str, Callable[[], None]]] = Queue()
    serving = threading.Thread(
        target=run_server,
        args=(answerer, backend),
        kwargs={
            "host": "127.0.0.1",
            "port": None,
            "settings": ServerSettings(model="real"),
            "reporter": Reporter(Console(quiet=True)),
            "started": lambda *told: started.put(told),
        },
    )
    serving.start()
    server, stop = started.get(timeout=60)
    try:
        # All at a time: what shares the batch changes no answer.
        with ThreadPoolExecutor(2 * len(QUESTIONS)) as clients:
            asked = [
                clients.submit(way, server, one) for one in QUESTIONS for way in (ask, ask_streamed)
            ]
            replies = [one.result()[0] for one in asked]
    finally:
        stop()
        serving.join(60)
    for number, question in enumerate(QUESTIONS):
        text, _ = greedy.answer(question, DIRECT)
        assert replies[2 * number : 2 * number + 2] == [DIRECT.parse(text).response] * 2
