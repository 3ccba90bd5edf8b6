"""LLM judges on real engines: a model in this process and a server, each call paid for once."""

import json
from pathlib import Path

import openai_server
import pytest
from judge_models import group
from tiny import save_policy

from forethought.config import (
    ModelConfig,
    OpenAIEngine,
    PairwiseJudge,
    RatingJudge,
    TransformersEngine,
)
from forethought.judging.base import checked
from forethought.judging.llm.prompt_file import load_prompt
from forethought.judging.open import open_judge
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, Unjudged


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = save_policy(tmp_path_factory.mktemp("judge"), "gemma")
    return ModelConfig(path=str(folder), dtype="float32", device="cpu")


@pytest.mark.parametrize("kind", ["pairwise", "rating"])
def test_a_model_of_ones_own(model: ModelConfig, kind: str) -> None:
    """A random model says nothing that can be read, and nothing is made of that. A response beyond
    its context is owed with the reason; what it said once is not drawn again."""
    shape = {"engine": TransformersEngine(rows=8), "model": model, "max_new_tokens": 4}
    config = (
        PairwiseJudge.model_validate(shape | {"prompt": "with_ties"})
        if kind == "pairwise"
        else RatingJudge.model_validate(shape)
    )
    groups = [group("5", "6"), group("x7y" * 3000, "5", prompt_id="long")]
    with Cache() as cache:
        with open_judge(config, cache) as judge:
            first = list(checked(judge, groups))
            calls = cache.counts()["calls"]
            second = list(checked(judge, groups))
        assert calls >= 4
        assert cache.counts()["calls"] == calls
    assert second == first
    unread, too_long = first
    assert isinstance(unread, Unjudged)
    assert "asked once more" in unread.reason
    assert isinstance(too_long, Unjudged)
    assert "tokens" in too_long.reason
    assert "asked once more" not in too_long.reason


def test_a_judge_at_a_server(tmp_path: Path) -> None:
    script = tmp_path / "replies.jsonl"
    lines = [
        {"match": "Assistant A's Answer]\ngood", "replies": ["A is right: [[A]]"]},
        {"match": "Assistant B's Answer]\ngood", "replies": ["B is right: [[B]]"]},
        {"match": "Finish now", "replies": ["[[B]]"]},
        {"match": "", "replies": ["Hard to say."]},
    ]
    script.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    server = openai_server.start("--replies", str(script), log=tmp_path / "log.jsonl")
    try:
        engine = OpenAIEngine(base_url=server.base_url, backoff=0.01)
        config = PairwiseJudge(engine=engine)
        with Cache(tmp_path / "cache.sqlite") as cache:
            with open_judge(config, cache) as judge:
                first = list(checked(judge, [group("bad", "good", "poor")]))
            asked = server.bodies()
            with open_judge(config, cache) as judge:
                second = list(checked(judge, [group("bad", "good", "poor")]))
            again = server.bodies()
    finally:
        server.stop()
    [answer] = first
    assert second == first
    assert isinstance(answer, Judgement)
    assert answer.all_scores[1] > answer.all_scores[0] == answer.all_scores[2]
    assert again == asked
    sent = [body["messages"] for body in asked]
    wanted = load_prompt("self_taught_evaluator", "pairwise").messages(
        group("x").prompt, ("good", "poor")
    )
    assert [{"role": one.role, "content": one.content} for one in wanted] in sent
    assert sorted(len(messages) for messages in sent) == [2] * 6 + [4] * 2
    assert {body["temperature"] for body in asked} == {0}
