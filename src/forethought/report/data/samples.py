"""The sample browser's data: prompts, all their outputs, scores, and what became a pair.

A page must stay openable, so at most `OUTPUT_LIMIT` outputs and `BYTE_LIMIT` bytes of packed data
are embedded. A larger run shows evenly spaced prompts, the same ones for both arms, and says so;
`forethought view` fetches its samples in pieces and has wider limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from forethought.config import PairsConfig, Recipe
from forethought.pairs import shaped_scores
from forethought.report.data.columns import count_rows, read_columns, read_rows
from forethought.report.data.sample_pieces import (
    OUTCOMES,
    Case,
    Group,
    PackedSamples,
    ShownOutput,
    pack,
)
from forethought.report.embed import script_json
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.schedule import evaluation_refs, prompts_ref, seed_refs
from forethought.storage.sealed_stage import is_sealed, read_manifest, read_records
from forethought.types import Arm, PairDecision, Prompt, ScoredGroup, Unjudged

OUTPUT_LIMIT = 60_000
BYTE_LIMIT = 50_000_000
"""Of the data inside the page, packed."""

SHOWN_STAGES = ("rollouts", "judgements", "pairs")
"""Those of an iteration that samples are read from."""
Source = tuple[Arm, int, Path, tuple[str | None, ...]]
"""Arm, iteration or policy (-1: the warm start, or the plain seed), its folder, and the digests of
its stages."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What is shown of a run, and of how much.

    Example: `Samples(cases=(("train", "9f2c…"),), shown=16, total=64, packed=PackedSamples(…),
    limit="")`
    """

    cases: tuple[tuple[str, str], ...]
    """Kind and prompt id of what the list shows, in its order."""
    shown: int
    """Outputs that are there."""
    total: int
    """Outputs in the run directory."""
    packed: PackedSamples
    """Everything as the page takes it."""
    limit: str
    """Why not all are there, such as `at most 60,000 outputs`; empty where all are."""


def collect_samples(
    recipe: Recipe,
    output_limit: int = OUTPUT_LIMIT,
    byte_limit: int | None = BYTE_LIMIT,
) -> Samples:
    """The run's outputs, or evenly spaced prompts' outputs where they are too many.

    Raises: StageError if a sealed stage is damaged.
    """
    prompts = prompts_ref(recipe).folder
    return _collect(
        _Sealed(
            rules=recipe.pairs,
            prompts=(prompts.absolute(), _digest(prompts)),
            iterations=tuple(_iterations(recipe)),
            evaluations=tuple(_evaluations(recipe)),
        ),
        output_limit,
        byte_limit,
    )


def samples_json(samples: Samples) -> str:
    """The samples of one run as JSON for a script element."""
    return samples_json_of_runs({"": samples})


def samples_json_of_runs(runs: Mapping[str, Samples]) -> str:
    """The samples of several runs, by the runs' names, as JSON for a script element."""
    return script_json(
        {
            "outcomes": OUTCOMES,
            "runs": [
                {"name": name, "index": samples.packed.index, "pieces": samples.packed.pieces}
                for name, samples in runs.items()
            ],
        }
    )


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items at equal distances, in order; all of them where there are no more."""
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """What the samples are a function of: a page that is made again need not read it again."""

    rules: PairsConfig
    prompts: tuple[Path, str | None]
    iterations: tuple[Source, ...]
    evaluations: tuple[Source, ...]


def _iterations(recipe: Recipe) -> Iterator[Source]:
    first = 0 if recipe.warm_start is None else WARM_START
    for number in range(first, recipe.iterations):
        for arm in recipe.arms:
            rollouts = StageRef(recipe=recipe, stage="rollouts", arm=arm, index=number)
            if rollouts.sealed:
                folder = rollouts.folder.parent.absolute()
                yield arm, number, folder, tuple(_digest(folder / stage) for stage in SHOWN_STAGES)


def _evaluations(recipe: Recipe) -> Iterator[Source]:
    for arm in recipe.arms:
        seed = [ref for ref in seed_refs(recipe) if ref.arm == arm]
        for ref in (*seed, *evaluation_refs(recipe, arm)):
            if ref.sealed:
                yield arm, ref.index, ref.folder.absolute(), (_digest(ref.folder),)


def _digest(folder: Path) -> str | None:
    """A stage's digest, or `None` before it is sealed."""
    return read_manifest(folder).digest if is_sealed(folder) else None


@lru_cache(maxsize=4)
def _collect(sealed: _Sealed, output_limit: int, byte_limit: int | None) -> Samples:
    prompts, digest = sealed.prompts
    if digest is None:
        return _samples([], 0, "", sealed.rules)
    known = {
        record.prompt_id: record
        for prefix in ("train", "test")
        for record in read_records(prompts, Prompt, prefix)
    }
    rollouts = [iteration[:3] for iteration in sealed.iterations]
    answers = [evaluation[:3] for evaluation in sealed.evaluations]
    total = sum(count_rows(folder / "rollouts") for _, _, folder in rollouts)
    total += sum(count_rows(folder) for _, _, folder in answers)
    share = min(1.0, output_limit / total) if total else 1.0
    groups: dict[tuple[str, str], list[Group]] = {}
    for arm, number, folder in rollouts:
        rules = sealed.rules if arm == "hybrid" else sealed.rules.of_one_mode
        for prompt_id, group in _train(arm, number, folder, share, rules):
            groups.setdefault(("train", prompt_id), []).append(group)
    for prompt_id, group in _test(answers, share):
        groups.setdefault(("test", prompt_id), []).append(group)
    cases = [
        Case(kind=kind, prompt=known[prompt_id], groups=tuple(own_groups))
        for (kind, prompt_id), own_groups in groups.items()
    ]
    limit = f"at most {output_limit:,} outputs" if share < 1 else ""
    return _fit(cases, total, limit, byte_limit, sealed.rules)


def _fit(
    cases: list[Case], total: int, limit: str, byte_limit: int | None, rules: PairsConfig
) -> Samples:
    while True:
        samples = _samples(cases, total, limit, rules)
        if byte_limit is None or not cases:
            return samples
        size = len(samples_json(samples))
        if size <= byte_limit:
            return samples
        limit = f"at most {byte_limit / 1e6:.3g} MB"
        # Fewer than in proportion, since not all texts compress alike; always fewer, so it ends.
        cases = evenly(cases, int(len(cases) * 0.95 * byte_limit / size))


def _samples(cases: Sequence[Case], total: int, limit: str, rules: PairsConfig) -> Samples:
    return Samples(
        cases=tuple((case.kind, case.prompt.prompt_id) for case in cases),
        shown=sum(len(group.outputs) for case in cases for group in case.groups),
        total=total,
        packed=pack(cases, priced=rules.thought_price > 0),
        limit=limit,
    )


def _chosen_prompts(folder: Path, share: float, prefix: str = "") -> frozenset[str] | None:
    """Evenly spaced ones of a stage's prompts; `None` for all."""
    if share >= 1:
        return None
    tables = read_columns(folder, ["prompt_id"], prefix)
    in_order = list(
        dict.fromkeys(prompt_id for table in tables for prompt_id in table["prompt_id"].to_pylist())
    )
    return frozenset(evenly(in_order, max(1, int(len(in_order) * share))))


def _train(
    arm: Arm, number: int, folder: Path, share: float, rules: PairsConfig
) -> Iterator[tuple[str, Group]]:
    wanted = _chosen_prompts(folder / "rollouts", share)
    scored, unjudged = _judgements(folder / "judgements")
    decisions, pairs = _decisions(folder / "pairs")
    columns = [
        "prompt_id",
        "sample_index",
        "completion.text",
        "parsed.status",
        "parsed.thought",
        "parsed.response",
        "response_start",
        "response_tokens",
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(folder / "rollouts", columns, only_prompts=wanted):
        rows.setdefault(row["prompt_id"], []).append(row)
    for prompt_id, own_rows in rows.items():
        group, decision = scored.get(prompt_id), decisions.get(prompt_id)
        pair = pairs.get(prompt_id)
        scores = dict(zip(group.sample_indices, group.scores, strict=True)) if group else {}
        # What the pair was made with goes over what is computed again.
        shaped = _shaped(own_rows, scores, rules) | _shaped_sides(pair) if rules.shapes else {}
        made = Group(
            arm=arm,
            iteration=number,
            outcome="warm_start" if number == WARM_START else decision and decision.outcome,
            chosen=decision.chosen_index if decision else None,
            rejected=decision.rejected_index if decision else None,
            margin=pair["margin"] if pair else None,
            unjudged=unjudged.get(prompt_id),
            evidence=group.evidence if group else "",
            outputs=tuple(_rollout(row, arm, number, scores, shaped) for row in own_rows),
        )
        yield prompt_id, made


def _rollout(
    row: Mapping[str, Any],
    arm: Arm,
    number: int,
    scores: Mapping[int, float],
    shaped: Mapping[int, float | None],
) -> ShownOutput:
    index = row["sample_index"]
    return ShownOutput(
        arm=arm,
        policy=number,
        index=index,
        **_sides(row),
        thought_tokens=row["response_start"],
        response_tokens=row["response_tokens"],
        score=scores.get(index),
        shaped=shaped.get(index),
        attempts=1,
    )


def _sides(row: Mapping[str, Any]) -> dict[str, Any]:
    parsed = row["parsed"]
    if parsed["response"] is None:
        return {"status": parsed["status"], "thought": None, "text": row["completion"]["text"]}
    return {"status": parsed["status"], "thought": parsed["thought"], "text": parsed["response"]}


def _judgements(folder: Path) -> tuple[dict[str, ScoredGroup], dict[str, str]]:
    if not is_sealed(folder):
        return {}, {}
    scored = {record.prompt_id: record for record in read_records(folder, ScoredGroup, "scored")}
    unjudged = {
        record.prompt_id: record.reason for record in read_records(folder, Unjudged, "unjudged")
    }
    return scored, unjudged


def _decisions(folder: Path) -> tuple[dict[str, PairDecision], dict[str, dict[str, Any]]]:
    """What became of every prompt, and the numbers of its pair."""
    if not is_sealed(folder):
        return {}, {}
    decisions = {
        record.prompt_id: record for record in read_records(folder, PairDecision, "decisions")
    }
    columns = ["prompt_id", "margin"]
    for side in ("chosen", "rejected"):
        columns += [f"{side}.sample_index", f"{side}.shaped_score"]
    return decisions, {row["prompt_id"]: row for row in read_rows(folder, columns, "pairs")}


def _shaped(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[int, float], rules: PairsConfig
) -> dict[int, float | None]:
    """Shaped scores of all judged outputs, as pair building computed them."""
    judged = [row for row in rows if row["sample_index"] in scores]
    indices = [row["sample_index"] for row in judged]
    lengths = [row["response_tokens"] for row in judged]
    thoughts = [row["response_start"] for row in judged]
    shaped = shaped_scores([scores[index] for index in indices], lengths, thoughts, rules)
    return dict(zip(indices, shaped, strict=True))


def _shaped_sides(pair: Mapping[str, Any] | None) -> dict[int, float | None]:
    """Those that the pair itself carries."""
    sides = [pair["chosen"], pair["rejected"]] if pair else []
    return {side["sample_index"]: side["shaped_score"] for side in sides}


def _test(answers: Sequence[tuple[Arm, int, Path]], share: float) -> Iterator[tuple[str, Group]]:
    """Each prompt's answers by every policy, one group per arm."""
    if not answers:
        return
    # Those of the first policy: all answer the same prompts.
    wanted = _chosen_prompts(answers[0][2], share, "answers")
    columns = [
        "prompt_id",
        "sample_index",
        "attempts",
        "completion.text",
        "parsed.status",
        "parsed.thought",
        "parsed.response",
        "thought_tokens",
        "response_tokens",
        "score",
    ]
    outputs: dict[tuple[str, Arm], list[ShownOutput]] = {}
    for arm, policy, folder in answers:
        for row in read_rows(folder, columns, "answers", only_prompts=wanted):
            outputs.setdefault((row["prompt_id"], arm), []).append(
                ShownOutput(
                    arm=arm,
                    policy=policy,
                    index=row["sample_index"],
                    **_sides(row),
                    thought_tokens=row["thought_tokens"],
                    response_tokens=row["response_tokens"],
                    score=row["score"],
                    shaped=None,
                    attempts=row["attempts"],
                )
            )
    for (prompt_id, arm), own_outputs in outputs.items():
        made = Group(
            arm=arm,
            iteration=None,
            outcome=None,
            chosen=None,
            rejected=None,
            margin=None,
            unjudged=None,
            evidence="",
            outputs=tuple(own_outputs),
        )
        yield prompt_id, made
