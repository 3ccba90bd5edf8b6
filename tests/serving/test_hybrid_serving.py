"""A hybrid policy at use: the policy decides, or the client, or a threshold on P(think)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import ModelConfig
from forethought.serving.answerer import SplittingAnswerer
from forethought.serving.backends.base import (
    AnswerEnd,
    AnswerRequest,
    AnswerSettings,
    RefusedDrawError,
)
from forethought.serving.backends.embedded import EmbeddedBackend
from forethought.serving.http.protocol import ApiError, read_chat
from forethought.serving.http.settings import ServerSettings
from forethought.thoughts import GENERIC, ThoughtFormat
from forethought.types import Message

HYBRID = GENERIC.as_hybrid()
SEEDS = range(6)


def question(seed: int, **fields: Any) -> AnswerRequest:
    given: dict[str, Any] = {
        "messages": (Message(role="user", content="Name the capital of Poland."),),
        "think": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": seed,
        "max_tokens": 40,
        "stop": (),
        "top_logprobs": 0,
        "whole": True,
    }
    return AnswerRequest(**given | fields)


def answers(
    own: ThoughtFormat = HYBRID, threshold: float | None = None, **fields: Any
) -> list[tuple[str, str, AnswerEnd]]:
    """Thought, response and end for each seed, of the microworld's seed model."""

    async def main() -> list[tuple[str, str, AnswerEnd]]:
        model = ModelConfig(path="microworld", dtype="float32", device="cpu")
        backend = EmbeddedBackend(model, slots=4, name="tiny", markers=own.markers)
        settings = AnswerSettings(
            thought_budget=24, attempts=5, without_response="empty", think_threshold=threshold
        )
        answerer = SplittingAnswerer(backend, own, settings)
        try:
            return [await _one(answerer, question(seed, **fields)) for seed in SEEDS]
        finally:
            await backend.close()

    return asyncio.run(main())


async def _one(answerer: SplittingAnswerer, asked: AnswerRequest) -> tuple[str, str, AnswerEnd]:
    thought, response, end = "", "", None
    async for part in answerer.answer(asked):
        if isinstance(part, AnswerEnd):
            end = part
        else:
            thought, response = thought + part.thought, response + part.response
    assert end is not None
    return thought, response, end


def test_a_client_decides_in_the_policy_s_place():
    for thought, response, end in answers(mode="think"):
        assert thought
        assert end.reasoning_tokens > 0
        assert response
        assert "Here is my" not in response
        assert thought not in response
    found = answers(mode="direct")
    for thought, response, _ in found:
        assert thought == ""
        assert response
        # One that thinks aloud all the same, and then writes the response marker.
        assert "Here is my" not in response
        assert "Step by step" not in response
    assert sum(end.reasoning_tokens == 0 for _, _, end in found) >= len(SEEDS) - 1


def test_a_threshold_decides_and_the_client_goes_before_it():
    assert all(thought for thought, _, _ in answers(threshold=0.5))
    assert not any(thought for thought, _, _ in answers(threshold=1.0))
    assert all(thought for thought, _, _ in answers(threshold=1.0, mode="think"))
    assert not any(thought for thought, _, _ in answers(threshold=0.0, mode="direct"))


def test_a_threshold_on_a_marker_of_several_tokens_is_refused():
    own = ThoughtFormat(
        name="own",
        instruction="Think.",
        thought_starts_after=("My thoughts:",),
        response_starts_after=("My answer:",),
    ).as_hybrid()
    with pytest.raises(RefusedDrawError, match="serve it without --think-threshold"):
        answers(own, threshold=0.5)
    assert not any(thought for thought, _, _ in answers(own, mode="direct"))


def asked(think: Any, *, hybrid: bool) -> AnswerRequest:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    if think is not None:
        body["think"] = think
    settings = ServerSettings(model="m", allow_think_off=True, hybrid=hybrid)
    return read_chat(json.dumps(body).encode(), settings).questions[0]


def test_requests_name_a_mode_of_a_hybrid_policy_alone():
    modes = [
        (one.think, one.mode)
        for one in (asked(think, hybrid=True) for think in (None, "auto", True, False))
    ]
    assert modes == [(True, "auto"), (True, "auto"), (True, "think"), (True, "direct")]
    plain = [(asked(think, hybrid=False).think) for think in (None, True, False)]
    assert plain == [True, True, False]
    with pytest.raises(ApiError, match="auto is for a hybrid policy"):
        asked("auto", hybrid=False)


def test_a_threshold_without_a_hybrid_policy_is_refused():
    said = CliRunner().invoke(app, ["serve", "microworld", "--think-threshold", "0.5"])
    assert said.exit_code == 1
    assert "--think-threshold: 0.5 is on the probability that a hybrid policy thinks" in said.output
