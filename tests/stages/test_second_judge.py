"""A judge that trains nothing beside the one that does."""

import json
import shutil
import sys
from io import StringIO
from statistics import mean
from typing import Any

import openai_server
import pytest
from rich.console import Console
from small_run import small_recipe, small_run, unseal

from forethought.evaluation.intervals import mean_result
from forethought.pipeline.loop import refuse_changed_recipe, run_recipe
from forethought.progress.reporter import Reporter
from forethought.report.data.collect import collect
from forethought.report.headline import headline
from forethought.runs.comparison import evaluations
from forethought.runs.second_opinion import second_opinion
from forethought.runs.summary import summarise, summary_table
from forethought.storage.sealed_stage import read_json, read_manifest, read_records
from forethought.types import Answer, ParseStatus

LIKING = """
import random

def brief(prompt, response):
    assert "secret" not in response
    return 1 / (1 + len(response))

chance = random.Random(7)

def coin(prompt, response):
    return chance.random()
"""
BRIEF = "measures.second_judge.judge={type: verifier, function: 'liking:brief'}"
SAME = "measures.second_judge.judge={type: verifier, function: microworld}"


@pytest.fixture(scope="module")
def liking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("liking")
    (folder / "liking.py").write_text(LIKING)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("second") / "run", "iterations=1")


def also(plain, folder, *measure):
    """The finished run, copied and measured by a second judge."""
    shutil.copytree(plain.run, folder)
    recipe = small_recipe(folder, "iterations=1", *measure)
    run_recipe(recipe, Reporter(Console(quiet=True)))
    return recipe


@pytest.fixture(scope="module")
def brief(plain, tmp_path_factory, liking):
    return also(plain, tmp_path_factory.mktemp("brief") / "run", BRIEF)


def folders(recipe, name):
    return sorted(recipe.run.glob(name))


def counts_of(folder) -> dict[str, Any]:
    return read_manifest(folder).counts


def test_every_evaluated_policy_is_scored_by_the_second_judge(brief):
    own = folders(brief, "measures/second_judge/*/policy_*")
    assert [f"{folder.parent.name} {folder.name}" for folder in own] == [
        "direct policy_0",
        "direct policy_1",
        "thought policy_0",
        "thought policy_1",
    ]
    for folder in own:
        counts = counts_of(folder)
        evaluation = brief.run / "evaluation" / folder.parent.name / folder.name
        answers = read_records(evaluation, Answer, "answers")
        wanted = {
            answer.prompt_id: 0.0
            if answer.parsed.status is not ParseStatus.COMPLETE
            else 1 / (1 + len(answer.parsed.response or ""))
            for answer in answers
        }
        given = {answer.prompt_id: answer for answer in read_records(folder, Answer, "answers")}
        for prompt_id, score in wanted.items():
            if score:
                assert given[prompt_id].score == pytest.approx(score)
                assert counts["scores"][prompt_id] == pytest.approx(score)
        [whole] = [result for result in counts["results"] if result["category"] is None]
        assert whole["value"] == pytest.approx(mean(counts["scores"].values()))


def test_it_may_be_asked_for_when_a_run_is_done_and_dropped_again(plain, brief):
    for manifest in plain.run.rglob("manifest.json"):
        assert (brief.run / manifest.relative_to(plain.run)).read_bytes() == manifest.read_bytes()
    without = small_recipe(brief.run, "iterations=1")
    refuse_changed_recipe(without)
    assert second_opinion(without, evaluations(without)) is None


def test_killed_before_the_seal_it_judges_nothing_again(brief):
    folder = brief.run / "measures/second_judge/thought/policy_1"
    sealed = unseal(folder)
    written = (folder / "answers.parquet").stat().st_mtime_ns
    run_recipe(brief, Reporter(Console(quiet=True)))
    assert (folder / "answers.parquet").stat().st_mtime_ns == written
    assert counts_of(folder) == sealed.counts


def test_the_same_judge_twice_sees_no_gap(plain, tmp_path):
    recipe = also(plain, tmp_path / "run", SAME)
    opinion = second_opinion(recipe, evaluations(recipe))
    assert opinion is not None
    summary = summarise(recipe)
    assert opinion.difference is not None
    assert opinion.difference.value == summary["difference"]["value"]
    assert {arm: gap.apart.value for arm, gap in opinion.gaps.items()} == {
        "thought": 0.0,
        "direct": 0.0,
    }
    for rows in summary["arms"].values():
        assert all(row["second_judge"] == pytest.approx(row["test_score"]) for row in rows)


def test_a_gap_is_the_wins_of_one_judge_less_those_of_the_other(brief):
    opinion = second_opinion(brief, evaluations(brief))
    assert opinion is not None
    for arm, gap in opinion.gaps.items():
        shares = []
        for name in (f"evaluation/{arm}", f"measures/second_judge/{arm}"):
            before, after = (
                counts_of(brief.run / name / f"policy_{index}")["scores"] for index in (0, 1)
            )
            shares.append([(after[p] > before[p]) + (after[p] == before[p]) / 2 for p in before])
        first, second = shares
        assert gap.first.value == pytest.approx(mean(first))
        assert gap.second.value == pytest.approx(mean(second))
        apart = mean_result("", [a - b for a, b in zip(first, second, strict=True)], ends=(-1, 1))
        assert gap.apart.value == pytest.approx(apart.value)
        assert gap.apart.interval == pytest.approx(apart.interval)


def test_the_table_the_summary_and_the_page_say_it(brief):
    summary = read_json(brief.run / "summary.json")
    shown = StringIO()
    Console(width=80, file=shown).print(summary_table(summary))
    text = shown.getvalue()
    assert "second judge (verifier liking:brief), mean score:" in text
    assert f"policy 1 {summary['arms']['thought'][1]['second_judge']:.3f}" in text
    said = headline(collect(brief.run)).findings
    assert any(one.startswith("By a second judge (verifier liking:brief)") for one in said)
    assert sum("by the judge that trained it" in one for one in said) == 2
    assert json.dumps(summary["second_judge"])


@pytest.fixture(scope="module")
def by_epoch(plain, tmp_path_factory, liking):
    folder = tmp_path_factory.mktemp("epochs") / "run"
    return also(plain, folder, BRIEF, "measures.second_judge.epochs=true")


def test_it_says_which_epoch_it_would_have_chosen(by_epoch):
    opinion = second_opinion(by_epoch, evaluations(by_epoch))
    assert opinion is not None
    said = headline(collect(by_epoch.run)).findings
    for arm in ("thought", "direct"):
        selection = by_epoch.run / arm / "iteration_0" / "selection"
        means = {}
        for epoch in (1, 2):
            scores: dict[str, float] = {}
            for answer in read_records(selection, Answer, f"epoch_{epoch}"):
                complete = answer.parsed.status is ParseStatus.COMPLETE
                shown = answer.parsed.response or ""
                scores[answer.prompt_id] = 1 / (1 + len(shown)) if complete else 0.0
            means[epoch] = mean(scores.values())
        choice = opinion.epochs[arm][1]
        assert choice.scores == pytest.approx(means)
        assert choice.second == max(means, key=lambda epoch: (means[epoch], -epoch))
        assert choice.chosen == counts_of(selection)["chosen_epoch"]
        agrees = int(choice.chosen == choice.second)
        assert any(
            f"Of the 1 epochs that became policies of the {arm} arm the second judge would have "
            f"chosen {agrees}" in one
            for one in said
        )
    assert "epochs" not in counts_of(by_epoch.run / "measures/second_judge/thought/policy_0")
    assert read_json(by_epoch.run / "summary.json")["second_judge"]["epochs"]["thought"]["1"]


def test_killed_before_the_seal_it_judges_no_epoch_again(by_epoch):
    folder = by_epoch.run / "measures/second_judge/thought/policy_1"
    sealed = unseal(folder)
    written = [(folder / f"epoch_{k}.parquet").stat().st_mtime_ns for k in (1, 2)]
    run_recipe(by_epoch, Reporter(Console(quiet=True)))
    assert [(folder / f"epoch_{k}.parquet").stat().st_mtime_ns for k in (1, 2)] == written
    assert counts_of(folder) == sealed.counts


@pytest.mark.parametrize("word", ["selection.by=last", "training.epochs=1"])
def test_epochs_that_nobody_compared_are_refused(tmp_path, word):
    with pytest.raises(ValueError, match="epochs: says which epoch another"):
        small_recipe(tmp_path, BRIEF, "measures.second_judge.epochs=true", word)


def test_one_that_only_compares_is_shown_each_policy_beside_the_baseline(plain, tmp_path):
    server = openai_server.start("--judge", "microworld_judges:compare")
    engine = f"{{type: openai, base_url: '{server.base_url}'}}"
    judge = f"measures.second_judge.judge={{type: pairwise, engine: {engine}}}"
    try:
        recipe = also(plain, tmp_path / "run", judge)
    finally:
        server.stop()
    counts = {
        f"{folder.parent.name} {folder.name}": counts_of(folder)
        for folder in folders(recipe, "measures/second_judge/*/policy_*")
    }
    assert set(counts["direct policy_0"]["scores"].values()) == {0.5}
    assert counts["direct policy_0"]["judge_calls"] is None
    assert counts["thought policy_1"]["judge_calls"]["calls"] > 0
    assert all(0 <= score <= 1 for each in counts.values() for score in each["scores"].values())


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, liking):
    """Trained by a judge that says another thing each time, which is asked again."""
    coin = "judge={type: verifier, function: 'liking:coin'}"
    folder = tmp_path_factory.mktemp("noisy") / "run"
    return small_run(folder, "iterations=1", coin, BRIEF, "measures.second_judge.again=true")


def test_the_judge_of_training_is_held_against_itself(noisy):
    opinion = second_opinion(noisy, evaluations(noisy))
    assert opinion is not None
    for arm, gap in opinion.gaps.items():
        assert gap.noise is not None
        wins = []
        for name, field in (
            (f"evaluation/{arm}", "scores"),
            (f"measures/second_judge/{arm}", "again"),
            (f"measures/second_judge/{arm}", "scores"),
        ):
            before, after = (
                counts_of(noisy.run / name / f"policy_{index}")[field] for index in (0, 1)
            )
            wins.append([(after[p] > before[p]) + (after[p] == before[p]) / 2 for p in before])
        once, again, second = wins
        assert gap.noise.apart.value == pytest.approx(mean(once) - mean(again))
        assert gap.noise.changed == mean(a != b for a, b in zip(once, again, strict=True)) > 0
        assert gap.noise.by_second == mean(a != b for a, b in zip(once, second, strict=True))
    said = headline(collect(noisy.run)).findings
    assert sum("the judge that trained it says another thing of" in one for one in said) == 2
    summary = read_json(noisy.run / "summary.json")
    noise = opinion.gaps["thought"].noise
    assert noise is not None
    assert summary["second_judge"]["gaps"]["thought"]["noise"]["changed"] == noise.changed


def test_killed_before_the_seal_it_asks_nothing_again(noisy):
    folder = noisy.run / "measures/second_judge/thought/policy_1"
    sealed = unseal(folder)
    run_recipe(noisy, Reporter(Console(quiet=True)))
    # A coin would say another thing.
    assert counts_of(folder) == sealed.counts


def test_a_judge_without_chance_repeats_itself(plain, tmp_path, liking):
    recipe = also(plain, tmp_path / "run", BRIEF, "measures.second_judge.again=true")
    opinion = second_opinion(recipe, evaluations(recipe))
    assert opinion is not None
    for gap in opinion.gaps.values():
        assert gap.noise is not None
        assert (gap.noise.changed, gap.noise.apart.value) == (0.0, 0.0)
    assert counts_of(recipe.run / "measures/second_judge/thought/policy_1")["judge_calls"] is None
