"""What a judge could not read is counted and left out: in evaluations, manifests and the page."""

from typing import Any

import pyarrow as pa
import pytest
from small_run import small_run

from forethought.config import CustomJudge, LaunchConfig
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.report.data.collect import collect
from forethought.report.page import _facts
from forethought.stages.judged.joint_judging import judge_sides, prompt_scores
from forethought.storage.records import from_table, table_schema
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.types import (
    Answer,
    Completion,
    Judgement,
    Message,
    ParsedOutput,
    ParseStatus,
    Prompt,
    ResponseGroup,
    ScoredGroup,
    Unjudged,
)


class Forgetful:
    """Scores by length; has no score for the last of several responses, or says so of none."""

    name, floor = "forgetful", 0.0

    def __init__(self, honest=True):
        self.honest = honest

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def judge(self, groups):
        for group in groups:
            scores: list[float | None] = [float(len(text)) for text in group.responses]
            if len(scores) > 1:
                scores[-1] = None
            yield Judgement(
                prompt_id=group.prompt.prompt_id,
                judge=self.name,
                scores=tuple(scores),
                evidence="",
                missing=self.honest and scores.count(None),
            )


FORGETFUL = CustomJudge(import_path=f"{__name__}:Forgetful")
PROMPT = Prompt(
    prompt_id="p",
    messages=(Message(role="user", content="Hi"),),
    category=None,
    source="s",
    reference=None,
)


def answer(response: str | None) -> Answer:
    status = ParseStatus.NO_RESPONSE if response is None else ParseStatus.COMPLETE
    parsed = ParsedOutput(status=status, thought=None, response=response, response_offset=0)
    return Answer(
        prompt_id="p",
        sample_index=0,
        attempts=1,
        completion=Completion(text=response or "", token_ids=(1,), finish_reason="stop"),
        parsed=parsed,
        thought_tokens=0,
        response_tokens=1,
        score=None,
    )


def test_only_a_judge_that_counts_what_is_missing_may_leave_a_score_out():
    group = ResponseGroup(prompt=PROMPT, responses=("a", "bb"))
    with open_judge(FORGETFUL) as judge:
        [judged] = checked(judge, [group])
    assert isinstance(judged, Judgement)
    assert judged.scores == (1.0, None)
    with open_judge(FORGETFUL.model_copy(update={"options": {"honest": False}})) as judge:
        [owed] = checked(judge, [group])
    assert isinstance(owed, Unjudged)
    assert "the score of response 1 is None, no finite number" in owed.reason


@pytest.mark.parametrize("relative", [False, True])
def test_an_answer_that_could_not_be_scored_has_not_lost(relative):
    judge = FORGETFUL.model_copy(update={"relative": relative})
    sides = {"A": [answer("a")], "B": [answer(None)], "C": [answer("ccc")]}
    with Cache() as cache:
        judged = judge_sides(judge, cache, sides, [PROMPT], LaunchConfig())
    scores = {side: each[0].score for side, each in judged.answers.items()}
    # A beats the output without a response; C's answer has no score and is nobody's rival.
    assert scores == {"A": 1.0, "B": None, "C": None}
    assert prompt_scores(judged.answers["C"], 0.0) == {}
    assert judged.unread == 1
    assert judged.missing == [
        {"prompt_id": "p", "reason": "1 of 2 answers have too few verdicts"},
    ]


@pytest.mark.slow
def test_a_run_scores_from_the_verdicts_there_are_and_counts_the_others(tmp_path):
    words = ("arms=[thought]", "iterations=1", "prompts_per_iteration=12", "training.epochs=1")
    judge = f"judge={{type: custom, import_path: '{__name__}:Forgetful'}}"
    run = small_run(tmp_path / "run", *words, judge).run
    folder = run / "thought/iteration_0/judgements"
    counts: Any = read_manifest(folder).counts
    groups = read_records(folder, ScoredGroup, "scored")
    several = [group for group in groups if group.missing]
    assert counts["unread_verdicts"] == counts["groups_with_unread"] == len(several) > 0
    assert counts["missing"] == []
    assert read_manifest(run / "thought/iteration_0/pairs").counts["pairs"]
    assert read_manifest(run / "evaluation/thought/policy_1").counts["unread_verdicts"] == 0
    assert ("verdicts that could not be read", str(len(several))) in _facts(collect(run))


def test_records_from_before_a_column_was_added_are_read():
    schema = table_schema(ScoredGroup)
    old = pa.schema([field for field in schema if field.name != "missing"])
    row = {
        "prompt_id": "p",
        "judge": "j",
        "sample_indices": [0, 2],
        "scores": [1.0, 0.0],
        "evidence": "",
    }
    [group] = from_table(pa.Table.from_pylist([row], schema=old), ScoredGroup)
    assert group.missing == 0
    with pytest.raises(ValueError, match="are not those of ScoredGroup"):
        from_table(pa.Table.from_pylist([row], schema=old).drop(["evidence"]), ScoredGroup)
