"""Doctor finds a fault that was planted in a recipe, that one alone, and names what to change."""

import pytest
from rich.console import Console
from small_run import ROOT

from forethought.config.recipe_files import load_recipe
from forethought.doctor.examination import examine
from forethought.progress.reporter import Reporter

QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
HEALTHY = (
    QUICKSTART,
    "iterations=2",
    "prompts_per_iteration=48",
    "prompts.train=[{type: microworld, split: train, count: 96}]",
    "prompts.validation={count: 8, sources: [{type: microworld, split: validation, count: 8}]}",
    "prompts.test={count: 8, sources: [{type: microworld, split: test, count: 8}]}",
    "sampling.max_new_tokens=96",
    "launch.threads=1",
    "measures.win_rate=null",
    "measures.probe=null",
)
OTHER_MARKERS = """\
name: other
instruction: First think. Then write your answer after "ANSWER NOW".
response_starts_after: [ANSWER NOW]
"""


def found(run, *words):
    """What doctor finds: the checks that say look or stop, each with its remedies."""
    recipe = load_recipe([*HEALTHY, f"run={run}", *words])
    examined = examine(recipe, 16, Reporter(Console(quiet=True)))
    wrong = {}
    for check in examined.checks:
        if check.verdict in ("look", "stop"):
            wrong.setdefault(check.name, set()).add((check.verdict, str(check.remedy)))
    return examined, wrong


def test_a_healthy_recipe_has_no_fault(tmp_path):
    examined, wrong = found(tmp_path / "run")
    assert wrong == {}
    assert examined.verdict == "ok"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "name", "verdict", "remedy"),
    [
        (
            ["sampling.max_new_tokens=12", "arms=[thought]"],
            "cut in thought",
            "stop",
            "sampling.max_new_tokens=48",
        ),
        (
            ["judge.function=biased_judges:likes_all_alike", "arms=[thought]"],
            "ties",
            "stop",
            "judge.function",
        ),
        (
            ["judge.function=biased_judges:chokes_on_some", "arms=[thought]"],
            "judge failures",
            "stop",
            "judge.function",
        ),
        (
            ["judge.function=biased_judges:tosses_a_coin", "arms=[thought]"],
            "judge noise",
            "stop",
            "judge.function",
        ),
        (
            # In bfloat16 two tokens may have the same logit, and no temperature decides then.
            ["sampling.temperature=0.01", "model.dtype=float32", "arms=[thought]"],
            "duplicates",
            "stop",
            "sampling.temperature=0.8",
        ),
        (["thought_format=OTHER"], "unparsed", "stop", "warm_start={}"),
        (
            ["prompts_per_iteration=60", "arms=[thought]"],
            "prompts",
            "stop",
            "prompts_per_iteration=48",
        ),
        (
            ["judge.function=biased_judges:loves_length", "arms=[thought]"],
            "follows length",
            "stop",
            "pairs.rho=0.5",
        ),
        (
            ["sampling.max_new_tokens=1000", "arms=[thought]"],
            "context room",
            "look",
            "sampling.max_new_tokens=",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_planted_fault_is_found_alone(tmp_path, words, name, verdict, remedy):
    (tmp_path / "other.yaml").write_text(OTHER_MARKERS)
    words = [word.replace("OTHER", str(tmp_path / "other.yaml")) for word in words]
    examined, wrong = found(tmp_path / "run", *words)
    assert wrong.keys() == {name}, [check.words for check in examined.checks]
    assert any(said == verdict and named.startswith(remedy) for said, named in wrong[name]), wrong
    assert examined.verdict == verdict
