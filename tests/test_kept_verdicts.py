"""Verdicts of parts that were judged early: found for the same part, prompts and judge alone."""

from pathlib import Path
from typing import Any

import pytest
from small_run import small_recipe
from tiny import save_reward_model

from forethought.config import Recipe
from forethought.stages.kept_verdicts import KeptVerdicts, PartVerdicts
from forethought.stages.place import Place
from forethought.store import SCRATCH, Stage
from forethought.types import ScoredGroup, Unjudged

VERDICTS = PartVerdicts(
    scored=[
        ScoredGroup(
            prompt_id="a",
            judge="verifier:gsm8k",
            sample_indices=(0, 2),
            scores=(0.1 + 0.2, -1e-300),
            evidence="“why”",
        )
    ],
    unjudged=[Unjudged(prompt_id="b", judge="verifier:gsm8k", reason="no number")],
    found=3,
)


def kept(tmp_path: Path, seed: int = 0, **judge: Any) -> KeptVerdicts:
    """Those of a run whose prompts are sealed."""
    run = tmp_path / f"run_{seed}"
    recipe: Recipe = small_recipe(run)
    settings = recipe.model_dump(mode="json") | {"judge": judge}
    recipe = Recipe.model_validate(settings)
    config = {"seed": seed}
    prompts = Stage(run / "prompts", name="prompts", version=1, config=config)
    if not prompts.sealed:
        prompts.seal(counts={})
    return KeptVerdicts(Place(recipe=recipe, stage="judgements", arm="thought", index=0))


def test_what_is_kept_is_found_as_it_was(tmp_path):
    first = kept(tmp_path, type="verifier", function="gsm8k")
    assert first.find("5ha") is None
    first.keep("5ha", VERDICTS)
    # Workers decide nothing.
    again = kept(tmp_path, type="verifier", function="gsm8k", workers=3)
    assert again.find("5ha") == VERDICTS


def test_nothing_is_found_of_other_content(tmp_path):
    kept(tmp_path, type="verifier", function="gsm8k").keep("5ha", VERDICTS)
    scratch = Path("thought/iteration_0/judgements") / SCRATCH
    (tmp_path / "run_1" / scratch).mkdir(parents=True)
    for path in (tmp_path / "run_0" / scratch).iterdir():
        (tmp_path / "run_1" / scratch / path.name).write_bytes(path.read_bytes())
    assert kept(tmp_path, type="verifier", function="gsm8k").find("5hb") is None
    assert kept(tmp_path, type="verifier", function="microworld").find("5ha") is None
    assert kept(tmp_path, seed=1, type="verifier", function="gsm8k").find("5ha") is None


@pytest.mark.parametrize("kind", ["reward_model", "mixture"])
def test_nothing_is_found_of_other_weights_under_the_same_path(tmp_path, kind):
    path = tmp_path / "judge"
    save_reward_model(path)
    judge: dict[str, Any] = {"type": "reward_model", "path": str(path)}
    if kind == "mixture":
        judge = {"type": "mixture", "routes": [{"members": [{"judge": judge}]}]}
    kept(tmp_path, **judge).keep("5ha", VERDICTS)
    assert kept(tmp_path, **judge).find("5ha") == VERDICTS
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert kept(tmp_path, **judge).find("5ha") is None


def test_what_is_not_whole_is_not_found(tmp_path):
    one = kept(tmp_path, type="verifier", function="gsm8k")
    one.keep("5ha", VERDICTS)
    [mark] = (tmp_path / "run_0/thought/iteration_0/judgements" / SCRATCH).glob("*.json")
    scored = mark.with_name(f"{mark.stem}_scored.parquet")
    whole = scored.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for content in (whole[:-7], bytes(damaged)):
        scored.write_bytes(content)
        assert one.find("5ha") is None
    scored.write_bytes(whole)
    assert one.find("5ha") == VERDICTS
    mark.unlink()
    assert one.find("5ha") is None
