"""A new judge and a new engine each touch three files: their own, their section's, what opens
them."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import ROOT, SMALL

JUDGE = """
from forethought.types import Judgement


class Shortest:
    name = "shortest"
    floor = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def judge(self, groups):
        for group in groups:
            scores = tuple(-float(len(response)) for response in group.responses)
            prompt_id = group.prompt.prompt_id
            yield Judgement(prompt_id=prompt_id, judge=self.name, scores=scores, evidence="")
"""
JUDGE_SECTION = '''
class ShortestJudge(JudgeFacts):
    """The shortest response is the best."""

    type: Literal["shortest"] = "shortest"

    @property
    def title(self) -> str:
        """What it prefers."""
        return "the shortest response"


'''
OPENED_JUDGE = """        case ShortestJudge():
            from forethought.judging.shortest import Shortest

            return Shortest()
"""
ENGINE = """
from dataclasses import replace

from forethought.sampling.transformers import TransformersSampler


def load_calm(model, params, rows):
    return TransformersSampler.load(
        model, params=replace(params, temperature=params.temperature / 2), rows=rows
    )
"""
ENGINE_SECTION = '''
class CalmEngine(EngineFacts):
    """The embedded engine at half the temperature."""

    loads_model: ClassVar[bool] = True
    shares_prompts: ClassVar[bool] = True

    type: Literal["calm"] = "calm"

    @property
    def rows_at_once(self) -> int:
        """Few."""
        return 32


'''
SAMPLING_SECTION = '''
class CalmSampling(SamplingFacts, CalmEngine):
    """Sample the policy calmly."""


'''
OPENED_ENGINE = """        case CalmEngine():
            from forethought.sampling.calm import load_calm

            assert model is not None
            return load_calm(model, params, config.rows_at_once)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with a judge and an engine more."""
    copy = tmp_path_factory.mktemp("copy") / "forethought"
    shutil.copytree(ROOT / "src" / "forethought", copy, ignore=shutil.ignore_patterns("*.pyc"))
    (copy / "judging" / "shortest.py").write_text(JUDGE)
    (copy / "sampling" / "calm.py").write_text(ENGINE)
    edit(copy / "config" / "judges.py", "_Single = (", before=JUDGE_SECTION)
    edit(copy / "config" / "judges.py", "    VerifierJudge\n    |", before="    ShortestJudge |\n")
    edit(copy / "config" / "engines.py", "EngineConfig = Annotated[", before=ENGINE_SECTION)
    edit(copy / "config" / "engines.py", " TransformersEngine |", before=" CalmEngine |")
    edit(copy / "config" / "engines.py", "SamplingConfig = Annotated[", before=SAMPLING_SECTION)
    edit(copy / "config" / "engines.py", " TransformersSampling |", before=" CalmSampling |")
    edit(copy / "judging" / "open.py", "    VerifierJudge,\n)", before="    ShortestJudge,\n")
    edit(copy / "judging" / "open.py", "        case VerifierJudge", before=OPENED_JUDGE)
    edit(copy / "sampling" / "open.py", "    EngineConfig,\n", before="    CalmEngine,\n")
    edit(copy / "sampling" / "open.py", "        case ScriptedEngine", before=OPENED_ENGINE)
    return copy


def edit(path: Path, place: str, *, before: str) -> None:
    text = path.read_text()
    assert text.count(place) == 1, f"{path}: {place!r}"
    path.write_text(text.replace(place, before + place))


def forethought(package: Path, *words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "forethought.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(package.parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_judge_and_an_engine_are_three_files_each(package: Path) -> None:
    files = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    _, changed, new = filecmp.cmpfiles(ROOT / "src" / "forethought", package, files, shallow=False)
    assert set(new) == {"judging/shortest.py", "sampling/calm.py"}
    assert set(changed) == {
        *("config/judges.py", "judging/open.py"),
        *("config/engines.py", "sampling/open.py"),
    }


def test_they_work_alone_on_files(package: Path, tmp_path: Path) -> None:
    prompt = {"prompt": "Name the capital of Poland."}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(prompt) + "\n")
    outputs, scores = tmp_path / "outputs.jsonl", tmp_path / "scores.jsonl"
    sample = ["sample", tmp_path / "prompts.jsonl"]
    model = ["model.path=microworld", "thought_format=generic"]
    forethought(package, *sample, outputs, *model, "sampling={type: calm, temperature: 0.8}")
    cooler = ["sampling={type: transformers, rows: 32, temperature: 0.4}"]
    forethought(package, *sample, tmp_path / "cooler.jsonl", *model, *cooler)
    assert outputs.read_text() == (tmp_path / "cooler.jsonl").read_text()
    warmer = ["sampling={type: transformers, rows: 32, temperature: 0.8}"]
    forethought(package, *sample, tmp_path / "warmer.jsonl", *model, *warmer)
    assert outputs.read_text() != (tmp_path / "warmer.jsonl").read_text()
    forethought(package, "judge", outputs, scores, "judge={type: shortest}")
    scored = json.loads(scores.read_text())
    responses = [output["response"] for output in scored["outputs"]]
    assert scored["judge"] == "shortest"
    assert scored["scores"] == [text and -float(len(text)) for text in responses]


def test_a_run_plans_and_reports_them(package: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    own = tmp_path / "own.yaml"
    own.write_text("sampling: {type: calm}\njudge: {type: shortest}\n")
    quickstart = ROOT / "recipes" / "quickstart.yaml"
    small = [f"run={run}", *SMALL, "iterations=1", "arms=[thought]"]
    words = [quickstart, own, *small]
    # What the plan asks of both is what it is told of the embedded engine and a verifier.
    known = forethought(package, "plan", quickstart, *small, "sampling.rows=32", "--gpu", "h200")
    assert forethought(package, "plan", *words, "--gpu", "h200") == known
    narrow = forethought(package, "plan", quickstart, *small, "sampling.rows=2", "--gpu", "h200")
    assert narrow != known
    forethought(package, "run", *words)
    assert json.loads((run / "config.json").read_text())["sampling"]["type"] == "calm"
    assert "the shortest response" in (run / "report.html").read_text()
