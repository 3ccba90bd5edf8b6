"""The headline claims no more than the figures bear, and the terminal says the same as the page."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from example_run import CATEGORIES, write_measures, write_run
from page_reader import PageReader
from rich.console import Console

from forethought.cli.status import status_table
from forethought.config.recipe_files import load_run
from forethought.report.data.collect import collect
from forethought.report.headline import Headline, headline
from forethought.report.page import write_report
from forethought.runs.comparison import claim_of
from forethought.runs.findings import findings
from forethought.runs.schedule import prompts_ref
from forethought.runs.summary import summarise


def change(folder: Path, **counts: Any) -> None:
    """Change what a sealed stage says it counted."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"] |= counts
    path.write_text(json.dumps(manifest))


def scored(run: Path, arm: str, policy: int, by_category: dict[str, float], **counts: Any) -> None:
    """Give all test prompts of a category one score."""
    test = prompts_ref(load_run(run)).prompts("test")
    scores = {each.prompt_id: by_category[each.category or ""] for each in test}
    mean = sum(scores.values()) / len(scores)
    folder = run / f"evaluation/{arm}/policy_{policy}"
    change(folder, scores=scores, test_score=mean, parse_failures=0.0, **counts)


def everywhere(score: float) -> dict[str, float]:
    return dict.fromkeys(CATEGORIES, score)


def made(run: Path) -> Headline:
    return headline(collect(run))


def terminal(run: Path) -> str:
    recipe = load_run(run)
    claim = claim_of(recipe)
    return "\n".join([claim.line(), *findings(recipe, claim)])


@pytest.mark.parametrize(
    ("thought", "direct", "words"),
    [
        (1.0, 0.0, "the thought arm scores higher than the direct arm on these 40 test prompts;"),
        (0.0, 1.0, "on these 40 test prompts thinking did not pay; the interval lies below zero"),
        (0.5, 0.5, "the arms cannot be told apart: the interval contains zero"),
    ],
)
def test_headline_is_honest_whichever_way_it_went(
    complete_run: Path, thought: float, direct: float, words: str
):
    scored(complete_run, "thought", 2, everywhere(thought))
    scored(complete_run, "direct", 2, everywhere(direct))
    page = PageReader(write_report(complete_run))
    assert words in page.texts["sentence"]
    line = claim_of(load_run(complete_run)).line()
    figure = page.texts["difference"]
    assert line.startswith(f"Thought arm minus direct arm at policy 2: {figure} points (95 %")
    assert line.endswith(page.texts["sentence"])


def test_no_claim_of_thinking_rests_on_outputs_without_a_response(complete_run: Path):
    scored(complete_run, "thought", 2, everywhere(0.0))
    scored(complete_run, "direct", 2, everywhere(1.0))
    change(complete_run / "evaluation/thought/policy_2", parse_failures=0.975)
    shown = made(complete_run)
    assert (shown.figure, shown.strip) == (None, None)
    assert shown.sentence.startswith(
        "After 2 iterations, nothing can be said of thinking: 97.5% of the thought arm's first "
        "outputs had no response. The difference of −100.0 points (95 % interval −100.0 to "
    )
    assert "pay" not in shown.sentence
    assert not any("Thinking" in finding for finding in shown.findings)
    assert terminal(complete_run).startswith(shown.sentence)
    assert summarise(load_run(complete_run))["difference"]["withheld"]
    change(complete_run / "evaluation/thought/policy_2", parse_failures=0.25)
    shown = made(complete_run)
    assert shown.figure == "−100.0"
    assert "Of the thought arm's first outputs 25.0% had no response" in shown.sentence


def test_an_arm_that_fell_below_its_seed_is_named(complete_run: Path):
    for policy, score in ((0, 0.9), (1, 0.2), (2, 0.8)):
        scored(complete_run, "direct", policy, everywhere(score))
        scored(complete_run, "thought", policy, everywhere(0.8 + 0.1 * policy))
    [fall] = [finding for finding in made(complete_run).findings if " fell " in finding]
    assert fall.startswith(
        "The direct arm fell from 90.0% at its seed to 80.0% at policy 2: −10.0 points (95 % "
    )
    assert fall in terminal(complete_run)
    scored(complete_run, "direct", 2, everywhere(0.9))
    assert " fell " not in " ".join(made(complete_run).findings)


def test_where_thinking_hurts_is_said(complete_run: Path):
    scored(complete_run, "direct", 2, everywhere(1.0))
    scored(complete_run, "thought", 2, everywhere(1.0) | {"arithmetic": 0.0})
    [hurts] = [finding for finding in made(complete_run).findings if "Thinking hurts" in finding]
    assert hurts.startswith(
        "Thinking hurts in 1 of 5 categories (by chance alone 0.1 would lie below zero): "
        "arithmetic −100.0 points (95 %"
    )
    assert hurts.endswith("n = 8).")
    assert hurts in terminal(complete_run)
    # Not enough to be sure of, and still the first thing to look at.
    scored(complete_run, "thought", 2, everywhere(1.0) | {"arithmetic": 0.7})
    [worst] = [finding for finding in made(complete_run).findings if "does worst" in finding]
    assert worst.startswith("Thinking does worst in arithmetic, of 5 categories: −30.0 points")
    assert worst.endswith("the interval includes zero.")
    scored(complete_run, "thought", 2, everywhere(1.0))
    assert "Thinking" not in " ".join(made(complete_run).findings)


def test_one_arm_alone_says_what_its_change_rests_on(tmp_path: Path):
    run = tmp_path / "alone"
    write_run(run, arms=("thought",), iterations=1)
    scored(run, "thought", 0, everywhere(0.5))
    scored(run, "thought", 1, everywhere(0.5))
    change(run / "evaluation/thought/policy_1", parse_failures=0.975)
    sentence = made(run).sentence
    assert "its test score changed by 0.0 points (95 % interval −" in sentence
    assert sentence.endswith("97.5% had no response and were drawn again.")
    assert claim_of(load_run(run)).line() == sentence
    recipe = load_run(run)
    once = recipe.evaluation.model_copy(update={"attempts": 1})
    told = claim_of(recipe.model_copy(update={"evaluation": once})).line()
    assert told.endswith("97.5% had no response and count as lost.")


def test_tiles_say_whose_they_are(complete_run: Path):
    write_measures(complete_run, last=1)
    tiles = {tile.label: tile for tile in made(complete_run).tiles}
    assert {"Thought arm: thought length", "Thought arm: no response at first"} < tiles.keys()
    # The last policy is the second, but the measures are of the first.
    assert tiles["Win rate against direct"].note == (
        "policy 1, 95 % interval 46.0% to 62.0%, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}40"
    )
    loss = tiles["Without the thought"]
    assert loss.value == "−12.0"
    assert loss.note.startswith("points, policy 1, 95 % interval −18.0 to −6.0, n")
    assert any("Responses of policy 1 lose 12.0" in each for each in made(complete_run).findings)


def test_lengths_that_hardly_overlap_are_said_in_place_of_a_rate(complete_run: Path):
    write_measures(complete_run)
    folder = complete_run / "measures/win_rate/thought/policy_2"
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    lengths = {"second": {"first_longer": 39, "second_longer": 1, "equal": 0}}
    change(folder, lengths=lengths)
    assert not any("overlap" in finding for finding in made(complete_run).findings)
    left = [each for each in counts["results"] if not each["name"].startswith("length_controlled")]
    change(folder, results=left)
    [said] = [finding for finding in made(complete_run).findings if "overlap" in finding]
    assert said.endswith("longer one on 39 of 40 prompts, the shorter one on 1.")


def test_scores_of_an_open_scale_that_are_all_equal_have_no_interval(tmp_path: Path):
    run = tmp_path / "run"
    write_run(run, iterations=1)
    config = json.loads((run / "config.json").read_text())
    config["judge"] = {"type": "reward_model", "path": "microworld"}
    (run / "config.json").write_text(json.dumps(config))
    for arm in ("thought", "direct"):
        scored(run, arm, 1, everywhere(3.5), interval=None)
    shown = made(run)
    assert (shown.figure, shown.strip) == ("0.000", None)
    assert shown.detail == "without an interval, n = 40 test prompts"
    assert "nothing tells how sure the difference is: it is the same on all" in shown.sentence
    assert summarise(load_run(run))["difference"]["interval"] is None


def test_the_status_of_a_run_gives_a_test_score_with_its_interval(complete_run: Path):
    scored(complete_run, "direct", 2, everywhere(1.0), interval=[0.912, 1.0])
    said = StringIO()
    Console(file=said, width=200).print(status_table(load_run(complete_run)))
    assert "test_score 1.000 (0.912 to 1.000, n = 40)" in said.getvalue()
