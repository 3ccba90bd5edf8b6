"""The sample browser's data: nothing lost on the way, its bounds, and JSON for script elements."""

import json
from pathlib import Path
from typing import Any

import pytest
from example_run import NASTY, K, write_run
from packed_samples import read_cases
from whole_pairs import build_pairs

from forethought.config import PairsConfig
from forethought.report.data import sample_pieces as pieces
from forethought.report.data.sample_pieces import OUTCOMES, Case, Group, ShownOutput, pack
from forethought.report.data.samples import (
    collect_samples,
    evenly,
    samples_json,
    samples_json_of_runs,
)
from forethought.report.embed import script_json
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_records
from forethought.types import (
    Answer,
    Message,
    PairDecision,
    PreferencePair,
    Prompt,
    Rollout,
    ScoredGroup,
)

TRAIN, TEST = 2 * 2 * 20 * K, 2 * 3 * 40


def _cases(recipe: Any, kind: str) -> dict[str, dict[str, Any]]:
    cases = read_cases(samples_json(collect_samples(recipe)))
    return {case["prompt"]: case for case in cases if case["kind"] == kind}


def test_a_small_run_is_there_whole(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    samples = collect_samples(recipe)
    assert samples.shown == samples.total == TRAIN + TEST
    assert samples.limit == ""
    kinds = [kind for kind, _ in samples.cases]
    assert (kinds.count("train"), kinds.count("test")) == (2 * 20, 40)


def test_every_rollout_is_there_word_for_word(tmp_path: Path):
    run = tmp_path / "run"
    recipe = write_run(run)
    shown = {
        (arm["arm"], arm["iteration"], prompt, one["index"]): one
        for prompt, case in _cases(recipe, "train").items()
        for arm in case["groups"]
        for one in arm["outputs"]
    }
    assert len(shown) == TRAIN
    seen = set()
    for arm in recipe.arms:
        for number in range(2):
            for record in read_records(run / arm / f"iteration_{number}" / "rollouts", Rollout):
                output = shown[arm, number, record.prompt_id, record.sample_index]
                seen.add(output["status"])
                assert output["status"] == record.parsed.status
                assert output["response_tokens"] == record.response_tokens
                if record.parsed.response is None:
                    assert output["text"] == record.completion.text
                else:
                    assert output["text"] == record.parsed.response
                    assert output["thought"] == record.parsed.thought
    assert len(seen) > 1
    texts = {one["text"] for one in shown.values()}
    assert all(any(nasty in text for text in texts) for nasty in NASTY)


def test_prompts_keep_their_turns_and_references(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    cases = _cases(recipe, "test")
    for prompt in read_records(tmp_path / "run" / "prompts", Prompt, "test"):
        case = cases[prompt.prompt_id]
        assert case["messages"] == [(message.role, message.content) for message in prompt.messages]
        assert (case["reference"], case["category"]) == (prompt.reference, prompt.category)


def test_scores_roles_and_margins_are_those_of_the_pairs(tmp_path: Path):
    run = tmp_path / "run"
    recipe = write_run(run)
    cases = _cases(recipe, "train")
    place = run / "thought" / "iteration_1"
    decisions = read_records(place / "pairs", PairDecision, "decisions")
    pairs = {
        record.prompt_id: record
        for record in read_records(place / "pairs", PreferencePair, "pairs")
    }
    assert pairs
    for decision in decisions:
        group = cases[decision.prompt_id]["groups"][0]
        assert (group["arm"], group["iteration"]) == ("thought", 1)
        assert group["outcome"] == decision.outcome
        assert group["chosen"] == decision.chosen_index
        assert group["rejected"] == decision.rejected_index
        pair = pairs.get(decision.prompt_id)
        assert group["margin"] == (pair.margin if pair else None)
        if pair:
            score = {one["index"]: one["score"] for one in group["outputs"]}
            assert score[pair.chosen.sample_index] == pair.chosen.score
            assert score[pair.rejected.sample_index] == pair.rejected.score


def test_what_the_judge_could_not_score_has_a_reason_and_no_scores(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    cases = _cases(recipe, "train").values()
    failed = [group for case in cases for group in case["groups"] if group["unjudged"]]
    assert len(failed) == 4
    assert {one["unjudged"] for one in failed} == {"the call <timed> out"}
    assert {one["outcome"] for one in failed} == {"unjudged"}
    assert all(one["score"] is None for group in failed for one in group["outputs"])


def test_a_training_prompt_shows_both_arms_and_a_test_prompt_every_policy(tmp_path: Path):
    run = tmp_path / "run"
    recipe = write_run(run)
    for case in _cases(recipe, "train").values():
        assert [one["arm"] for one in case["groups"]] == ["thought", "direct"]
        assert all(len(one["outputs"]) == K for one in case["groups"])
    answers = {
        (arm, policy, record.prompt_id): record
        for arm in recipe.arms
        for policy in range(3)
        for record in read_records(run / "evaluation" / arm / f"policy_{policy}", Answer)
    }
    cases = _cases(recipe, "test")
    assert len(cases) == 40
    for prompt, case in cases.items():
        assert [one["arm"] for one in case["groups"]] == ["thought", "direct"]
        for group in case["groups"]:
            assert [one["policy"] for one in group["outputs"]] == [0, 1, 2]
            for one in group["outputs"]:
                answer = answers[group["arm"], one["policy"], prompt]
                assert (one["score"], one["attempts"]) == (answer.score, answer.attempts)


def test_shaped_scores_of_all_outputs_are_those_that_built_the_pairs(tmp_path: Path):
    run = tmp_path / "run"
    recipe = write_run(run)
    config = PairsConfig(rho=0.4)
    recipe = recipe.model_copy(update={"pairs": config})
    place = run / "direct" / "iteration_0"
    outputs: dict[str, list[Rollout]] = {}
    for record in read_records(place / "rollouts", Rollout):
        outputs.setdefault(record.prompt_id, []).append(record)
    groups = read_records(place / "judgements", ScoredGroup, "scored")
    scored = {one.prompt_id: one for one in groups}
    (place / "pairs" / "manifest.json").unlink()
    pairs, _ = build_pairs(outputs, scored, config, seed=0)
    cases = _cases(recipe, "train")
    judged = [one for one in pairs if one.kind == "judged"]
    assert judged
    for pair in judged:
        group = cases[pair.prompt_id]["groups"][1]
        shaped = {one["index"]: one["shaped"] for one in group["outputs"]}
        assert shaped[pair.chosen.sample_index] == pytest.approx(pair.chosen.shaped_score)
        assert shaped[pair.rejected.sample_index] == pytest.approx(pair.rejected.shaped_score)
        assert shaped[pair.chosen.sample_index] == max(v for v in shaped.values() if v is not None)


def test_without_length_control_no_output_has_a_shaped_score(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    for case in _cases(recipe, "train").values():
        assert all(one["shaped"] is None for g in case["groups"] for one in g["outputs"])


def test_several_runs_keep_their_names(tmp_path: Path):
    first = write_run(tmp_path / "first", iterations=1)
    second = write_run(tmp_path / "second", arms=("thought",), iterations=1)
    runs = {
        "first": collect_samples(first),
        "sec</script>ond": collect_samples(second),
    }
    text = samples_json_of_runs(runs)
    assert "</script" not in text
    cases = read_cases(text)
    for name, samples in runs.items():
        own = [case for case in cases if case["run"] == name]
        assert tuple((one["kind"], one["prompt"]) for one in own) == samples.cases


def test_the_output_limit_keeps_the_same_prompts_for_both_arms(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    samples = collect_samples(recipe, output_limit=140)
    assert 100 <= samples.shown <= 140
    assert samples.total == TRAIN + TEST
    assert samples.limit == "at most 140 outputs"
    train = [case for case in read_cases(samples_json(samples)) if case["kind"] == "train"]
    assert {len(one["groups"]) for one in train} == {2}
    assert {group["iteration"] for one in train for group in one["groups"]} == {0, 1}


def test_the_byte_limit_holds_and_is_named(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    whole = len(samples_json(collect_samples(recipe)))
    samples = collect_samples(recipe, byte_limit=whole // 2)
    assert 0 < len(samples_json(samples)) <= whole // 2
    assert {kind for kind, _ in samples.cases} == {"train", "test"}
    assert samples.shown < samples.total
    assert samples.limit == f"at most {whole // 2 / 1e6:.3g} MB"
    assert collect_samples(recipe, byte_limit=None).limit == ""


def test_what_is_sealed_later_is_seen(tmp_path: Path):
    run = tmp_path / "run"
    recipe = write_run(run, until=(0, "judgements"))
    before = _cases(recipe, "train")
    assert {group["outcome"] for case in before.values() for group in case["groups"]} == {None}
    place = run / "direct" / "iteration_0"
    rollouts = read_records(place / "rollouts", Rollout)
    group = ScoredGroup(
        prompt_id=rollouts[0].prompt_id,
        judge="later",
        sample_indices=(0,),
        scores=(0.25,),
        evidence="It <b>is</b> so.",
    )
    stage = Stage(place / "judgements", name="judgements", version=1, config={})
    stage.write_records("scored_00000", [group], ScoredGroup)
    stage.seal({})
    after = _cases(recipe, "train")[rollouts[0].prompt_id]["groups"][1]
    assert after["outputs"][0]["score"] == 0.25
    assert after["evidence"] == "It <b>is</b> so."


def _case_of(number: int, text: str, score: float | None = 1.0) -> Case:
    output = ShownOutput(
        arm="thought",
        policy=0,
        index=0,
        status="complete",
        thought=text,
        text=text,
        thought_tokens=1,
        response_tokens=1,
        score=score,
        shaped=None,
        attempts=1,
    )
    group = Group(
        arm="thought",
        iteration=0,
        outcome=None,
        chosen=None,
        rejected=None,
        margin=None,
        unjudged=None,
        evidence="",
        outputs=(output,),
    )
    prompt = Prompt(
        prompt_id=f"{number:016d}",
        messages=(Message(role="user", content=f"question {number}"),),
        category=None,
        source="test",
        reference=None,
    )
    return Case(kind="train", prompt=prompt, groups=(group,))


def test_texts_are_cut_into_pieces_between_prompts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 1000)
    packed = pack([_case_of(number, "abc" * 100) for number in range(5)])
    assert len(packed.pieces) == 3
    text = json.dumps({"runs": [{"name": "", "index": packed.index, "pieces": packed.pieces}]})
    assert [case["prompt"] for case in read_cases(text)] == [
        f"{number:016d}" for number in range(5)
    ]


def test_no_cases_are_no_pieces():
    assert pack([]).pieces == ()


def test_a_score_that_is_not_finite_is_none_in_the_page():
    packed = pack([_case_of(0, "x", float("inf")), _case_of(1, "y", float("nan"))])
    text = json.dumps({"runs": [{"name": "", "index": packed.index, "pieces": packed.pieces}]})
    scores = [case["groups"][0]["outputs"][0]["score"] for case in read_cases(text)]
    assert scores == [None, None]


def test_every_outcome_of_a_run_has_words(tmp_path: Path):
    recipe = write_run(tmp_path / "run")
    cases = _cases(recipe, "train").values()
    outcomes = {group["outcome"] for case in cases for group in case["groups"]}
    assert len(outcomes) > 2
    assert outcomes <= OUTCOMES.keys()


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (2, [0, 5]), (3, [0, 3, 6]), (99, [*range(10)])]
)
def test_evenly(count: int, expected: list[int]):
    assert evenly(range(10), count) == expected


def test_script_json_survives_the_script_element():
    value = {"a": "</script><!--\u2028\u2029&", "b": [float("nan"), float("inf"), 1.5], "c": "🎉"}
    text = script_json(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": value["a"], "b": [None, None, 1.5], "c": "🎉"}
