"""The sample browser's data: prompts, all their outputs, scores, and what became a pair.

A page must stay openable, so at most `OUTPUT_LIMIT` outputs and `BYTE_LIMIT` bytes of JSON are
embedded. A larger run shows evenly spaced prompts, the same ones for both arms, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from forethought.config import Recipe
from forethought.report.columns import count_rows, is_sealed, read_columns, read_rows
from forethought.report.embed import script_json
from forethought.store import read_records
from forethought.types import Arm, PairDecision, Prompt, ScoredGroup, Unjudged

OUTPUT_LIMIT = 20_000
BYTE_LIMIT = 30_000_000

OUTCOMES = {
    "judged": "Pair: the best and the worst judged response.",
    "unparsable": "Pair: the best judged response against an output that has no response.",
    "tie": "No pair: the best and the worst score are equal.",
    "one_judged": "No pair: only one output was judged.",
    "none_judged": "No pair: no output has a response to judge.",
    "unjudged": "No pair: the judge could not score this prompt.",
    "unparsable_quota": "No pair: enough pairs with an output that has no response.",
}
"""`PairDecision.outcome` in words."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output as the browser shows it.

    Example: `Output(arm="thought", policy=0, index=3, status="complete", thought="2 + 3 is 5.",
    text="5", thought_tokens=12, response_tokens=1, score=1.0, shaped=1.9, attempts=1)`
    """

    arm: Arm
    policy: int
    index: int
    status: str
    thought: str | None
    text: str
    """The response; the whole output where there is none."""
    thought_tokens: int
    response_tokens: int
    score: float | None
    shaped: float | None
    """The score after length control, where there was any; of the two sides of a pair only."""
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The outputs to one prompt that are shown together.

    Example: `Group(kind="train", arm="thought", iteration=0, prompt="9f2c…", outcome="judged",
    chosen=3, rejected=1, unjudged=None, evidence="", outputs=(Output(…),))`
    """

    kind: str
    """`train`: K samples of one policy. `test`: answers of every policy of both arms."""
    arm: Arm | None
    iteration: int | None
    prompt: str
    outcome: str | None
    """`None` for test answers and before pairs are made."""
    chosen: int | None
    rejected: int | None
    unjudged: str | None
    """Why the judge gave no scores."""
    evidence: str
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What is embedded, and of how much.

    Example: `Samples(prompts={"9f2c…": Prompt(…)}, groups=(Group(…),), total=64)`
    """

    prompts: dict[str, Prompt]
    groups: tuple[Group, ...]
    total: int
    """Outputs in the run directory."""

    @property
    def shown(self) -> int:
        """Outputs that are embedded."""
        return sum(len(group.outputs) for group in self.groups)


def collect_samples(
    run: Path, recipe: Recipe, output_limit: int = OUTPUT_LIMIT, byte_limit: int = BYTE_LIMIT
) -> Samples:
    """The run's outputs, or evenly spaced prompts' outputs where they are too many."""
    prompts_folder = run / "prompts"
    if not is_sealed(prompts_folder):
        return Samples(prompts={}, groups=(), total=0)
    known = {
        one.prompt_id: one
        for prefix in ("train", "test")
        for one in read_records(prompts_folder, Prompt, prefix)
    }
    rollouts: list[tuple[Arm, int, Path]] = [
        (arm, number, run / arm / f"iteration_{number}")
        for number in range(recipe.iterations)
        for arm in recipe.arms
        if is_sealed(run / arm / f"iteration_{number}" / "rollouts")
    ]
    answers: list[tuple[Arm, int, Path]] = [
        (arm, number, run / "evaluation" / arm / f"policy_{number}")
        for number in range(recipe.iterations + 1)
        for arm in recipe.arms
        if is_sealed(run / "evaluation" / arm / f"policy_{number}")
    ]
    total = sum(count_rows(place / "rollouts") for _, _, place in rollouts)
    total += sum(count_rows(place) for _, _, place in answers)
    share = min(1.0, output_limit / total) if total else 1.0
    shaped = recipe.pairs.rho > 0
    groups = [one for arm, i, place in rollouts for one in _train(arm, i, place, share, shaped)]
    groups += _test(answers, share)
    return _fit(known, groups, total, byte_limit)


def samples_json(samples: Samples) -> str:
    """The samples as JSON for a script element; outputs are arrays in the order of `fields`."""
    return script_json(
        {
            "fields": list(Output.__dataclass_fields__),
            "outcomes": OUTCOMES,
            "shown": samples.shown,
            "total": samples.total,
            "prompts": {prompt_id: asdict(one) for prompt_id, one in samples.prompts.items()},
            "groups": [_group_json(group) for group in samples.groups],
        }
    )


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items at equal distances, in order; all of them where there are no more."""
    if count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _fit(known: dict[str, Prompt], groups: list[Group], total: int, byte_limit: int) -> Samples:
    while True:
        used = {group.prompt for group in groups}
        prompts = {key: one for key, one in known.items() if key in used}
        samples = Samples(prompts=prompts, groups=tuple(groups), total=total)
        size = len(samples_json(samples).encode())
        if size <= byte_limit or not groups:
            return samples
        groups = evenly(groups, int(len(groups) * 0.95 * byte_limit / size))


def _chosen_prompts(folder: Path, share: float, prefix: str = "") -> frozenset[str]:
    tables = read_columns(folder, ["prompt_id"], prefix)
    in_order = list(
        dict.fromkeys(one for table in tables for one in table["prompt_id"].to_pylist())
    )
    return frozenset(evenly(in_order, max(1, int(len(in_order) * share))))


def _train(arm: Arm, number: int, place: Path, share: float, with_shaped: bool) -> Iterator[Group]:
    wanted = _chosen_prompts(place / "rollouts", share)
    scored, unjudged = _judgements(place / "judgements")
    decisions = _decisions(place / "pairs")
    shaped = _shaped_scores(place / "pairs", wanted) if with_shaped else {}
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
    outputs: dict[str, list[Output]] = {}
    for row in read_rows(place / "rollouts", columns, only_prompts=wanted):
        prompt_id, index = row["prompt_id"], row["sample_index"]
        group = scored.get(prompt_id)
        score = None
        if group is not None:
            score = dict(zip(group.sample_indices, group.scores, strict=True)).get(index)
        outputs.setdefault(prompt_id, []).append(
            Output(
                arm=arm,
                policy=number,
                index=index,
                **_sides(row),
                thought_tokens=row["response_start"],
                response_tokens=row["response_tokens"],
                score=score,
                shaped=shaped.get((prompt_id, index)),
                attempts=1,
            )
        )
    for prompt_id, found in outputs.items():
        decision = decisions.get(prompt_id)
        yield Group(
            kind="train",
            arm=arm,
            iteration=number,
            prompt=prompt_id,
            outcome=decision.outcome if decision else None,
            chosen=decision.chosen_index if decision else None,
            rejected=decision.rejected_index if decision else None,
            unjudged=unjudged.get(prompt_id),
            evidence=scored[prompt_id].evidence if prompt_id in scored else "",
            outputs=tuple(found),
        )


def _sides(row: dict[str, Any]) -> dict[str, Any]:
    parsed = row["parsed"]
    if parsed["response"] is None:
        return {"status": parsed["status"], "thought": None, "text": row["completion"]["text"]}
    return {"status": parsed["status"], "thought": parsed["thought"], "text": parsed["response"]}


def _judgements(folder: Path) -> tuple[dict[str, ScoredGroup], dict[str, str]]:
    if not is_sealed(folder):
        return {}, {}
    scored = {one.prompt_id: one for one in read_records(folder, ScoredGroup, "scored")}
    unjudged = {one.prompt_id: one.reason for one in read_records(folder, Unjudged, "unjudged")}
    return scored, unjudged


def _decisions(folder: Path) -> dict[str, PairDecision]:
    if not is_sealed(folder):
        return {}
    return {one.prompt_id: one for one in read_records(folder, PairDecision, "decisions")}


def _shaped_scores(folder: Path, wanted: frozenset[str]) -> dict[tuple[str, int], float | None]:
    if not is_sealed(folder):
        return {}
    columns = ["prompt_id"]
    for side in ("chosen", "rejected"):
        columns += [f"{side}.sample_index", f"{side}.shaped_score"]
    return {
        (row["prompt_id"], row[side]["sample_index"]): row[side]["shaped_score"]
        for row in read_rows(folder, columns, "pairs", only_prompts=wanted)
        for side in ("chosen", "rejected")
    }


def _test(answers: Sequence[tuple[Arm, int, Path]], share: float) -> list[Group]:
    if not answers:
        return []
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
    outputs: dict[str, list[Output]] = {}
    for arm, policy, folder in answers:
        for row in read_rows(folder, columns, "answers", only_prompts=wanted):
            outputs.setdefault(row["prompt_id"], []).append(
                Output(
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
    return [
        Group(
            kind="test",
            arm=None,
            iteration=None,
            prompt=prompt_id,
            outcome=None,
            chosen=None,
            rejected=None,
            unjudged=None,
            evidence="",
            outputs=tuple(found),
        )
        for prompt_id, found in outputs.items()
    ]


def _group_json(group: Group) -> dict[str, Any]:
    fields = {name: getattr(group, name) for name in Group.__dataclass_fields__}
    names = list(Output.__dataclass_fields__)
    fields["outputs"] = [[getattr(one, name) for name in names] for one in group.outputs]
    return fields
