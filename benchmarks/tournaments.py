"""What a tournament loses against all comparisons: circles and rounds on recorded verdicts.

    git clone https://github.com/bcdnlp/PRD    # MIT; Li et al. 2023, arXiv 2307.02762
    OMP_NUM_THREADS=1 python benchmarks/tournaments.py PRD [--prompts 300]

First on what is published: five chat models judged the answers of five to 80 questions, every pair
in both orders with A, B or neither, 20 verdicts a question. The package's own pairwise judge is run
for each setting, its model's part played by the record. Then on eight answers, which nobody has
published whole: verdicts are drawn from a model of each of these judges,

    P(A) = sigmoid(r_a - r_b + place - tie),  P(B) = sigmoid(r_b - r_a - place - tie),

with strengths r of N(0, spread²); the three figures are those under which the record's verdicts are
likeliest. Five such answers are drawn too, to be held against the record.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from forethought.config import PairwiseJudge, ScriptedEngine
from forethought.judging.base import checked
from forethought.judging.llm.pairwise import Pairwise
from forethought.share_interval import interval_between
from forethought.types import (
    Completion,
    Judgement,
    Message,
    Prompt,
    ResponseGroup,
    SampledPrompt,
    SampleRequest,
)

MODELS = ("bard", "claude", "gpt35", "gpt4", "vicuna-13b")
LABELS = {1: "[[A]]", 2: "[[B]]", 3: "[[C]]"}
ANSWER = "The answer numbered "
SETTINGS: tuple[Any, ...] = (
    "all",
    "circular",
    {"circles": 2},
    {"circles": 3},
    *({"rounds": n} for n in range(2, 7)),
)

Verdicts = Mapping[tuple[int, int], str]
"""Of one prompt: what was said of two answers in the order in which they were shown."""


class Record:
    """A judge model that says again what stands in the record."""

    def __init__(self, verdicts: Mapping[str, Verdicts]) -> None:
        self._verdicts = verdicts
        self.calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt]:
        self.calls += len(requests)
        for request in requests:
            first, second = (
                int(part.split(maxsplit=1)[0])
                for part in request.messages[-1].content.split(ANSWER)[1:]
            )
            said = self._verdicts[request.prompt_id][first, second]
            reply = Completion(text=said, token_ids=(), finish_reason="stop")
            yield SampledPrompt(
                prompt_id=request.prompt_id, prompt_token_ids=(), completions=(reply,)
            )


def scores(verdicts: Mapping[str, Verdicts], answers: int, how: Any) -> tuple[np.ndarray, float]:
    """The scores of every prompt's answers, shape (P, K), and the calls for a prompt."""
    config = PairwiseJudge.model_validate(
        {
            "engine": ScriptedEngine(path=Path("none")),
            "prompt": "with_ties",
            "comparisons": how,
        }
    )
    record = Record(verdicts)
    groups = [
        ResponseGroup(
            prompt=Prompt(
                prompt_id=name,
                messages=(Message(role="user", content=f"Question {name}"),),
                category=None,
                source="record",
                reference=None,
            ),
            responses=tuple(f"{ANSWER}{place}" for place in range(answers)),
        )
        for name in verdicts
    ]
    found: list[tuple[float, ...]] = []
    with Pairwise(config, sampler=record) as judge:
        for answer in checked(judge, groups):
            assert isinstance(answer, Judgement), answer
            found.append(answer.all_scores)
    return np.array(found), record.calls / len(verdicts)


def recorded(folder: Path) -> dict[str, dict[str, Verdicts]]:
    """For each judge the verdicts on each question."""
    found: dict[str, dict[str, dict[tuple[int, int], str]]] = {}
    for judge in MODELS:
        of_judge = found.setdefault(judge, {})
        for file in sorted((folder / "data" / "vicuna80" / f"ratings-{judge}").glob("*.jsonl")):
            names = file.name.replace("answer-", "answer_").removeprefix("answer_")
            first, _, rest = names.partition("-vs-answer_")
            second = rest.partition(f"-{judge}-reviewer")[0]
            pair = (MODELS.index(first), MODELS.index(second))
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                question = of_judge.setdefault(f"{judge} {row['question_id']}", {})
                question[pair] = LABELS[row["score"]]
    every = set(permutations(range(len(MODELS)), 2))
    for judge, of_judge in found.items():
        for name, verdicts in of_judge.items():
            assert set(verdicts) == every, f"{judge}, question {name}: verdicts are missing"
    return {judge: dict(of_judge) for judge, of_judge in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How a judge's verdicts come about, in log odds.

    Example: `Noise(spread=1.9, place=0.4, tie=0.6)`
    """

    spread: float
    place: float
    tie: float

    def chances(self, gaps: np.ndarray) -> np.ndarray:
        """Of A, B and neither for each gap r_a - r_b, shape (…, 3)."""
        first = _sigmoid(gaps + self.place - self.tie)
        second = _sigmoid(-gaps - self.place - self.tie)
        return np.stack([first, second, np.maximum(1 - first - second, 1e-12)], axis=-1)

    @classmethod
    def of(cls, record: Mapping[str, Verdicts]) -> Noise:
        """The maximum of the likelihood of the verdicts on each pair in both orders."""
        labels = list(LABELS.values())
        cells = Counter(
            (labels.index(verdicts[a, b]), labels.index(verdicts[b, a]))
            for verdicts in record.values()
            for a, b in permutations(range(len(MODELS)), 2)
        )
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        weights = weights / weights.sum()

        def loss(values: np.ndarray) -> float:
            noise = cls(spread=float(np.exp(values[0])), place=values[1], tie=abs(values[2]))
            gaps = np.sqrt(2) * noise.spread * nodes
            one, other = noise.chances(gaps), noise.chances(-gaps)
            joint = np.einsum("n,nu,nv->uv", weights, one, other)
            return -sum(count * np.log(joint[cell]) for cell, count in cells.items())

        best = minimize(loss, np.array([0.0, 0.0, 0.5]), method="Nelder-Mead").x
        return cls(spread=float(np.exp(best[0])), place=float(best[1]), tie=float(abs(best[2])))

    def drawn(self, prompts: int, answers: int, seed: int) -> tuple[dict[str, Verdicts], Any]:
        """A record of so many prompts, and the strengths behind it, shape (P, K)."""
        random = np.random.default_rng(seed)
        strength_PK = random.normal(0, self.spread, (prompts, answers))
        return self.verdicts(strength_PK, random), strength_PK

    def verdicts(self, strength_PK: np.ndarray, random: np.random.Generator) -> dict[str, Verdicts]:
        """What the judge says of answers of these strengths."""
        chance_PKK3 = self.chances(strength_PK[:, :, None] - strength_PK[:, None, :])
        draw_PKK = random.random(chance_PKK3.shape[:-1])
        label_PKK = (draw_PKK[..., None] > chance_PKK3.cumsum(axis=-1)).sum(axis=-1)
        labels = list(LABELS.values())
        return {
            f"drawn {prompt}": {
                (a, b): labels[min(2, label_PKK[prompt, a, b])]
                for a, b in permutations(range(strength_PK.shape[1]), 2)
            }
            for prompt in range(len(strength_PK))
        }


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def same_winner(record: Mapping[str, Verdicts]) -> float:
    """Share of pairs of which both orders name the same winner."""
    turned = {"[[A]]": "[[B]]", "[[B]]": "[[A]]"}
    return fmean(
        turned.get(verdicts[a, b]) == verdicts[b, a]
        for verdicts in record.values()
        for a, b in combinations(sorted({one for one, _ in verdicts}), 2)
    )


def name_of(how: Any) -> str:
    """As a recipe would write it."""
    return how if isinstance(how, str) else f"{{{', '.join(f'{k}: {v}' for k, v in how.items())}}}"


def row(name: str, calls: float, full_PK: np.ndarray, few_PK: np.ndarray, true_PK: Any) -> str:
    """How often best and worst are those of the full tournament, and what the pair is worth.

    Where several are best in the full one, each of them is right. The pair is the first best and
    the first worst, as pairs are made; its worth is its gap over the widest there is.
    """
    rows = np.arange(len(full_PK))
    best, worst = few_PK.argmax(axis=1), few_PK.argmin(axis=1)
    same_best = full_PK[rows, best] >= full_PK.max(axis=1)
    same_worst = full_PK[rows, worst] <= full_PK.min(axis=1)
    both = (same_best & same_worst).astype(float).tolist()
    low, high = interval_between(both)
    gap = (true_PK[rows, best] - true_PK[rows, worst]).sum() / np.ptp(true_PK, axis=1).sum()
    return (
        f"| `{name}` | {calls:.1f} | {same_best.mean():.1%} | {same_worst.mean():.1%} | "
        f"{fmean(both):.1%} ({low:.1%} to {high:.1%}) | {gap:.1%} |"
    )


HEAD = "| comparisons | calls | same best | same worst | both | gap |\n|---|---|---|---|---|---|"


def table(records: Sequence[tuple[Mapping[str, Verdicts], Any, Any]], answers: int) -> None:
    """Print all settings for several judges together; `records` has for each its verdicts, the
    strengths that decide a pair's worth or None, and the verdicts of a second asking or None."""
    print(HEAD, flush=True)
    fulls = [scores(record, answers, "all")[0] for record, _, _ in records]
    truths = [
        full if strength is None else strength
        for full, (_, strength, _) in zip(fulls, records, strict=True)
    ]
    full_PK, true_PK = np.concatenate(fulls), np.concatenate(truths)
    for how in SETTINGS:
        found = [scores(record, answers, how) for record, _, _ in records]
        calls = found[0][1]
        if how == "all" or calls < answers * (answers - 1):
            few_PK = np.concatenate([each for each, _ in found])
            print(row(name_of(how), calls, full_PK, few_PK, true_PK), flush=True)
    again = [scores(second, answers, "all") for _, _, second in records if second is not None]
    if again:
        few_PK = np.concatenate([each for each, _ in again])
        print(row("all, asked again", again[0][1], full_PK, few_PK, true_PK))


def drawn(noises: Mapping[str, Noise], prompts: int, answers: int, share: float) -> Any:
    """Records of all judges on answers whose strengths spread by a `share` of the measured."""
    records = []
    for seed, noise in enumerate(noises.values()):
        near = Noise(spread=noise.spread * share, place=noise.place, tie=noise.tie)
        record, strength_PK = near.drawn(prompts, answers, seed)
        second = near.verdicts(strength_PK, np.random.default_rng(1000 + seed))
        records.append((record, strength_PK, second))
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path, help="a clone of github.com/bcdnlp/PRD")
    parser.add_argument("--prompts", type=int, default=300, help="drawn for each judge")
    given = parser.parse_args()
    record = recorded(given.record)
    noises = {judge: Noise.of(verdicts) for judge, verdicts in record.items()}
    print("| judge | same winner in both orders | spread | place | tie |\n|---|---|---|---|---|")
    for judge, noise in noises.items():
        figures = f"{noise.spread:.2f} | {noise.place:+.2f} | {noise.tie:.2f}"
        print(f"| {judge} | {same_winner(record[judge]):.0%} | {figures} |")
    print("\nrecorded, five answers")
    table([(verdicts, None, None) for verdicts in record.values()], len(MODELS))
    print("\ndrawn, five answers")
    table(drawn(noises, given.prompts, len(MODELS), 1.0), len(MODELS))
    for share in (1.0, 0.5):
        print(f"\ndrawn, eight answers, {share:g} of the measured spread")
        table(drawn(noises, given.prompts, 8, share), 8)
    best = max(record, key=lambda judge: same_winner(record[judge]))
    print(f"\ndrawn, eight answers, {best} alone")
    table(drawn({best: noises[best]}, 5 * given.prompts, 8, 1.0), 8)


if __name__ == "__main__":
    main()
