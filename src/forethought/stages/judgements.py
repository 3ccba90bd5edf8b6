"""Stage `judgements`: show the judge each prompt's bare responses and keep its scores.

Part *i* judges part *i* of `rollouts`. With `judge.workers` parts are done many at a time and
written as they arrive; what is written is the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from forethought.cache import Cache
from forethought.config import Recipe
from forethought.judging.crew import judging_crew
from forethought.judging.describe import asks_a_model, identity, is_relative
from forethought.progress import Reporter
from forethought.stages.place import Place
from forethought.store import (
    Count,
    Part,
    Stage,
    StageError,
    read_columns,
    read_manifest,
    read_records,
    sealed_parts,
)
from forethought.types import (
    Judgement,
    Prompt,
    ResponseGroup,
    Rollout,
    ScoredGroup,
    Unjudged,
)

Key = TypeVar("Key", bound=Hashable)


def configure(place: Place) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    return {"judge": identity(place.recipe.judge)}


def work(stage: Stage, place: Place, reporter: Reporter) -> dict[str, Count]:
    """Judge what parts are owed; a group without scores is listed as missing.

    Raises: StageError if no output of the iteration has a response, or none could be judged.
    """
    rollouts = place.beside("rollouts")
    _refuse_if_nothing_parses(place)
    parts = sealed_parts(rollouts)
    prompts = {prompt.prompt_id: prompt for prompt in place.prompts("train")}
    owed = [i for i in range(len(parts)) if not stage.has(f"unjudged_{i:05d}")]
    groups = 0
    scores = array("d")
    missing: list[Unjudged] = []
    with (
        reporter.task(place.label, len(parts), "parts") as task,
        verdict_cache(place) as cache,
    ):
        if owed:
            shown = _Shown(rollouts, parts, prompts)
            with judging_crew(place.recipe.judge, cache, place.recipe.launch) as crew:
                for index, verdicts in crew.each(owed, shown.groups):
                    good, bad = shown.records(index, verdicts.answers)
                    stage.write_records(f"scored_{index:05d}", good, ScoredGroup)
                    # Written last: this part stands for both.
                    stage.write_records(f"unjudged_{index:05d}", bad, Unjudged)
                    task.advance()
        for index in range(len(parts)):
            for group in stage.read_records(f"scored_{index:05d}", ScoredGroup):
                groups += 1
                scores.extend(group.scores)
            missing += stage.read_records(f"unjudged_{index:05d}", Unjudged)
        if not scores:
            raise StageError(
                f"{place.label}: the judge scored none of {len(missing)} prompts, the first "
                f"because: {missing[0].reason}"
            )
        relative = is_relative(place.recipe.judge)
        mean = None if relative else sum(scores) / len(scores)
        task.note = "" if mean is None else f"mean score {mean:.3f}"
        spent = cache.counts() if asks_a_model(place.recipe.judge) else None
    return {
        "groups": groups,
        "responses": len(scores),
        "mean_score": mean,
        "judge_calls": spent,
        "missing": [{"prompt_id": one.prompt_id, "reason": one.reason} for one in missing],
    }


def verdict_cache(place: Place) -> Cache:
    """The run's kept answers of judge models, or those that several runs share."""
    recipe = place.recipe
    path = verdict_cache_file(recipe) if asks_a_model(recipe.judge) else None
    return Cache(path, account=f"{recipe.run.resolve()} {place.label}")


def verdict_cache_file(recipe: Recipe) -> Path:
    """Where a run keeps what judge models said."""
    return recipe.cache or recipe.run / "cache.sqlite"


class _Shown:
    """The groups of each part, and whose responses stand in them; no thought leaves this class."""

    def __init__(self, rollouts: Path, parts: Sequence[Part], prompts: dict[str, Prompt]) -> None:
        self._rollouts = rollouts
        self._parts = parts
        self._prompts = prompts
        self._indices: dict[int, list[tuple[int, ...]]] = {}

    def groups(self, index: int) -> list[ResponseGroup]:
        """Every prompt of a part that has a response."""
        columns = ("prompt_id", "sample_index", "parsed.response")
        rows = read_columns(self._rollouts, self._parts[index], columns).flatten().to_pylist()
        candidates = [
            (
                self._prompts[prompt_id],
                {one["sample_index"]: one["parsed.response"] for one in outputs},
            )
            for prompt_id, outputs in groupby(rows, key=lambda one: one["prompt_id"])
        ]
        self._indices[index], groups = response_groups(candidates)
        return groups

    def records(
        self, index: int, answers: Sequence[Judgement | Unjudged]
    ) -> tuple[list[ScoredGroup], list[Unjudged]]:
        """What is written of a part's answers."""
        scored: list[ScoredGroup] = []
        missing: list[Unjudged] = []
        for shown, answer in zip(self._indices.pop(index), answers, strict=True):
            if isinstance(answer, Unjudged):
                missing.append(answer)
                continue
            scored.append(
                ScoredGroup(
                    prompt_id=answer.prompt_id,
                    judge=answer.judge,
                    sample_indices=shown,
                    scores=answer.scores,
                    evidence=answer.evidence,
                )
            )
        return scored, missing


def response_groups(
    candidates: Sequence[tuple[Prompt, Mapping[Key, str | None]]],
) -> tuple[list[tuple[Key, ...]], list[ResponseGroup]]:
    """For each prompt that has a response: whose are shown, and what the judge is shown."""
    keys: list[tuple[Key, ...]] = []
    groups: list[ResponseGroup] = []
    for prompt, named in candidates:
        responses = {key: text for key, text in named.items() if text is not None}
        if responses:
            keys.append(tuple(responses))
            groups.append(ResponseGroup(prompt=prompt, responses=tuple(responses.values())))
    return keys, groups


def _refuse_if_nothing_parses(place: Place) -> None:
    folder = place.beside("rollouts")
    counts = read_manifest(folder).counts
    if counts["parse_failures"] == 1:
        first = read_records(folder, Rollout, "part_00000")[0]
        raise StageError(
            f"{place.label}: none of {counts['outputs']} outputs has a response "
            f"({counts['statuses']}). The model does not follow the format "
            f"{place.thought_format.name!r}; its first output is {first.completion.text!r:.300}. "
            "Try another thought_format, a larger sampling.max_new_tokens, or a model that "
            "follows instructions"
        )
