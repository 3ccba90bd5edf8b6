"""A secret in every thought reaches no judge, no request, no cached verdict, no log.

The policy's outputs come from a file in which each thought holds the secret. Then everything that
a judge was shown, sent, kept or wrote is searched for it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import openai_server
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from tiny import save_armorm, save_policy, save_reward_model

from forethought.config.recipe_files import load_recipe
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.storage.sealed_stage import read_manifest
from forethought.types import Judgement, ResponseGroup

SECRET = "zanzibar"
INSTRUCTION = "write down your thought process"
MAY_HOLD_IT = ("rollouts", "pairs", "selection", "evaluation", "training", "reference")
"""Stages that keep whole outputs."""
LLM = ("pairwise", "rating", "checklist")
seen: list[str] = []


def recording(prompt, response):
    seen.append(f"{prompt} {response}")
    return float(len(response))


class Recording:
    """A judge of the user's own that writes down all it is given."""

    name = "recording"
    floor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement]:
        for group in groups:
            seen.append(repr(group))
            scores = tuple(float(len(response)) for response in group.responses)
            yield Judgement(
                prompt_id=group.prompt.prompt_id,
                judge=self.name,
                scores=scores,
                evidence=repr(group),
            )


def longer(messages):
    """A chat model's reply that repeats all it was told."""
    shown = messages[-1]["content"]
    if "checked against a list of statements" in shown:
        return f"I read: {shown.replace('[[', '(')}\n[[2]] It is short.\n[[1]] It is long."
    if "[The statement]" in shown:
        verdict = ("yes", "no", "cannot tell")[sum(map(ord, shown)) % 3]
        return f"I read: {shown.replace('[[', '(')} So: [[{verdict}]]"
    if "[[B]]" not in str(messages):
        return f"I read: {shown.replace('[[', '(')} Rating: [[{sum(map(ord, shown)) % 10 + 1}]]"
    first = shown.split("Assistant A's Answer]")[1]
    second = shown.split("Assistant B's Answer]")[1]
    return f"I read: {shown} So: [[{'A' if len(first) > len(second) else 'B'}]]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blindness")
    save_policy(folder / "policy")
    save_reward_model(folder / "reward_model")
    save_armorm(folder / "armorm")
    replies = [
        f"Here is my thought process: {SECRET} {word}. Here is my response: It is {word}{tail}"
        for word, tail in [("one", "."), ("two", "!"), ("three", ", surely."), ("four", "")]
    ]
    script = {"match": "", "replies": [*replies, f"Here is my thought process: {SECRET} only"]}
    (folder / "script.jsonl").write_text(json.dumps(script) + "\n")
    prompts = [json.dumps({"prompt": f"Question {i}?", "kind": "ab"[i % 2]}) for i in range(24)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    server = openai_server.start("--judge", "test_blindness:longer", log=folder / "server.jsonl")
    yield server
    server.stop()


def judges(folder: Path, base_url: str) -> dict[str, dict[str, Any]]:
    engine = {"type": "openai", "base_url": base_url}
    own = {"type": "custom", "import_path": f"{__name__}:Recording"}
    models = {
        kind: {"type": kind, "path": str(folder / kind), "dtype": "float32"}
        for kind in ("reward_model", "armorm")
    }
    asked = {kind: {"type": kind, "engine": engine} for kind in LLM}
    function = {"type": "verifier", "function": f"{__name__}:recording"}
    members = [{"judge": judge} for judge in (own, function, *models.values(), *asked.values())]
    routes = [{"category": ["a"], "members": members[:3]}, {"members": members}]
    mixture = {"type": "mixture", "routes": routes}
    return {"verifier": function, "custom": own, **models, **asked, "mixture": mixture}


@pytest.mark.parametrize("kind", ["verifier", "custom", "reward_model", "armorm", *LLM, "mixture"])
def test_no_judge_ever_meets_a_thought(folder, server, tmp_path, kind):
    seen.clear()
    recipe = {
        "run": str(tmp_path / "run"),
        "model": {"path": str(folder / "policy"), "dtype": "float32"},
        "arms": ["thought"],
        "iterations": 1,
        "prompts_per_iteration": 12,
        "prompts": {
            "train": [
                {
                    "type": "file",
                    "path": str(folder / "prompts.jsonl"),
                    "columns": {"category": "kind"},
                }
            ],
            "validation": {"count": 4},
            "test": {"count": 4},
        },
        "sampling": {"type": "scripted", "path": str(folder / "script.jsonl"), "samples": 6},
        "judge": judges(folder, server.base_url)[kind],
        "pairs": {"max_unparsable": 0.5},
        "training": {"epochs": 1, "batch_size": 4, "dtype": "float32"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    run_recipe(load_recipe([str(path)]), Reporter(Console(quiet=True)))

    counts: Any = read_manifest(tmp_path / "run/thought/iteration_0/judgements").counts
    assert counts["groups"] == 12
    rollouts = texts(tmp_path / "run/thought/iteration_0/rollouts")
    assert SECRET in rollouts, "the thoughts are there"
    shown = "\n".join(seen) + json.dumps(server.requests())
    if kind in ("verifier", "custom", *LLM, "mixture"):
        assert "It is one." in shown, "the judge saw responses"
    assert SECRET not in shown
    assert INSTRUCTION not in shown
    for path, text in written(tmp_path / "run").items():
        assert SECRET not in text, path
        # The settings of a stage hold it, nothing else does.
        assert path.name in ("intent.json", "config.json") or INSTRUCTION not in text, path


def written(run: Path) -> dict[Path, str]:
    """Everything under a run but the stages that keep whole outputs."""
    return {
        path: texts(path)
        for path in run.rglob("*")
        if path.is_file() and not set(MAY_HOLD_IT) & set(path.relative_to(run).parts)
    }


def texts(path: Path) -> str:
    if path.is_dir():
        return "".join(map(texts, sorted(path.iterdir())))
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pylist())
    return path.read_bytes().decode("utf-8", "replace")
