"""A small run directory, complete or cut short, written with the store and the real pair code."""

import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from interval_ends import ends_of
from whole_pairs import build_pairs

from forethought.config import PairsConfig, Recipe
from forethought.evaluation.intervals import mean_result
from forethought.pairs import pair_counts
from forethought.runs.summary import write_summary
from forethought.storage.files import write_bytes, write_json
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import read_json
from forethought.thoughts import DIRECT, GENERIC
from forethought.types import (
    Answer,
    Arm,
    Completion,
    EvaluationResult,
    Message,
    PairDecision,
    PreferencePair,
    Prompt,
    Rollout,
    ScoredGroup,
    Unjudged,
)

CATEGORIES = ("arithmetic", "capitals & rivers", "counting letters", "word order", "سؤال")
NASTY = (
    "<script>window.hacked = 1</script></script><!-- <b>bold</b> & \u2028 'quoted' \"twice\"",
    "The answer is 42 🎉👩‍🔬, and that is <em>certain</em>.",
    "الجواب هو أربعة وعشرون",
    '<img src=x onerror="window.hacked = 2">',
)
K = 4
SECONDS = {
    "rollouts": 9.5,
    "judgements": 0.4,
    "pairs": 0.1,
    "reference": 1.2,
    "training": 21.0,
    "selection": 6.0,
}


def recipe_of(run: Path, arms: tuple[Arm, ...], iterations: int) -> Recipe:
    """A recipe that fits what `write_run` writes."""
    return Recipe.model_validate(
        {
            "run": run,
            "model": {"path": "microworld"},
            "arms": arms,
            "iterations": iterations,
            "prompts_per_iteration": 20,
            "prompts": {
                "train": [{"type": "microworld", "count": 20 * iterations}],
                "validation": {"count": 10},
                "test": {"count": 40},
            },
            "sampling": {"type": "transformers", "samples": K},
            "judge": {"type": "verifier", "function": "microworld"},
            "training": {"epochs": 3},
        }
    )


def write_run(
    run: Path,
    arms: tuple[Arm, ...] = ("thought", "direct"),
    iterations: int = 2,
    until: tuple[int, str] | None = None,
) -> Recipe:
    """Write a run; `until=(1, "pairs")` leaves that stage and all after it out."""
    recipe = recipe_of(run, arms, iterations)
    write_json(run / "config.json", recipe.model_dump(mode="json"))
    attempt = {
        "created": "2025-11-22T10:00:00+0000",
        "command": "forethought run recipe.yaml",
        "versions": {"torch": "2.8.0"},
        "git_commit": None,
        "seconds": 61.5,
    }
    write_json(run / "run.json", {"attempts": [attempt]})
    train = [_prompt("train", index) for index in range(20 * iterations)]
    test = [_prompt("test", index) for index in range(40)]
    stage = Stage(run / "prompts", name="prompts", version=1, config={})
    stage.write_records("train_00000", train, Prompt)
    stage.write_records("test", test, Prompt)
    stage.seal(counts={"train": len(train)})
    for arm in arms:
        _evaluation(run, arm, 0, test)
    for number in range(iterations):
        for arm in arms:
            last = until[1] if until is not None and until[0] == number else None
            slice_ = train[20 * number : 20 * (number + 1)]
            _Iteration(run, arm, number, slice_).write(last)
            if last is None:
                _evaluation(run, arm, number + 1, test)
        write_summary(recipe)
        if until is not None and until[0] == number:
            break
    return recipe


def _prompt(split: str, index: int) -> Prompt:
    messages = (Message(role="user", content=f"{split} question {index}: what is {index} + 7?"),)
    if index % 10 == 3:
        earlier = (
            Message(role="system", content="Be brief."),
            Message(role="user", content="Hello <b>you</b>"),
            Message(role="assistant", content="Hello!"),
        )
        messages = (*earlier, *messages)
    return Prompt(
        prompt_id=f"{split}{index:04d}00000000"[:16],
        messages=messages,
        category=CATEGORIES[index % len(CATEGORIES)],
        source="microworld",
        reference=str(index + 7),
    )


def _skill(arm: Arm, policy: int) -> float:
    """The thought arm starts behind and overtakes."""
    return {"thought": 0.3, "direct": 0.4}[arm] + {"thought": 0.22, "direct": 0.08}[arm] * policy


def _text(arm: Arm, policy: int, rng: random.Random) -> tuple[str, bool]:
    """An output and whether it is right; some lack a response."""
    right = rng.random() < _skill(arm, policy)
    response = rng.choice(NASTY) if rng.random() < 0.15 else f"The result is {rng.randrange(90)}."
    response += " I am sure of it." * rng.randrange(3)
    if arm == "direct":
        return response, right
    thought = "First I add the tens, then the ones. " * rng.randrange(1, 6 - policy) + rng.choice(
        ("secretthought", "<i>so</i>", "nothing else")
    )
    if rng.random() < 0.12 - 0.04 * policy:
        return f"Here is my thought process: {thought} and so on", False
    return f"Here is my thought process: {thought}\nHere is my response: {response}", right


def _rollout(arm: Arm, policy: int, prompt: Prompt, index: int, rng: random.Random) -> Any:
    text, right = _text(arm, policy, rng)
    finish = "length" if rng.random() < 0.03 else "stop"
    parsed = (DIRECT if arm == "direct" else GENERIC).parse(text, finish)
    words = text.split(" ")
    before = len(words)
    if parsed.response_offset is not None:
        before = len(text[: parsed.response_offset].split())
    tokens = tuple(range(len(words) + (finish == "stop")))
    rollout = Rollout(
        prompt_id=prompt.prompt_id,
        sample_index=index,
        prompt_token_ids=(0, 4),
        completion=Completion(text=text, token_ids=tokens, finish_reason=finish),
        parsed=parsed,
        response_start=before if parsed.response_offset is not None else len(tokens),
        response_tokens=len(words) - before,
    )
    return rollout, float(right)


class _Iteration:
    """All stages of one arm's iteration."""

    def __init__(self, run: Path, arm: Arm, number: int, prompts: list[Prompt]) -> None:
        self.place = run / arm / f"iteration_{number}"
        self.rng = random.Random(f"{arm} {number}")
        sampled = {
            prompt.prompt_id: [_rollout(arm, number, prompt, k, self.rng) for k in range(K)]
            for prompt in prompts
        }
        self.outputs = {key: [one for one, _ in each] for key, each in sampled.items()}
        self.right = {
            (one.prompt_id, one.sample_index): r for e in sampled.values() for one, r in e
        }
        self.failed = prompts[7].prompt_id
        self.thought = arm == "thought"

    def write(self, until: str | None) -> None:
        for name in ("rollouts", "judgements", "pairs", "reference", "training", "selection"):
            if name == until:
                if name == "training":
                    self.log(torn=True)
                return
            stage = Stage(self.place / name, name=name, version=1, config={})
            stage.seal(getattr(self, name)(stage) or {})
            manifest = self.place / name / "manifest.json"
            fields = read_json(manifest)
            write_json(manifest, fields | {"seconds": SECONDS[name]})

    def rollouts(self, stage: Stage) -> None:
        every = [one for each in self.outputs.values() for one in each]
        stage.write_records("part_00000", every[: 12 * K], Rollout)
        stage.write_records("part_00001", every[12 * K :], Rollout)

    def judgements(self, stage: Stage) -> None:
        groups: list[ScoredGroup] = []
        for prompt_id, each in self.outputs.items():
            shown = tuple(one.sample_index for one in each if one.parsed.response is not None)
            if prompt_id != self.failed and shown:
                scores = tuple(self.right[prompt_id, index] for index in shown)
                groups.append(
                    ScoredGroup(
                        prompt_id=prompt_id,
                        judge="verifier:microworld",
                        sample_indices=shown,
                        scores=scores,
                        evidence="",
                    )
                )
        self.groups = groups
        bad = [Unjudged(prompt_id=self.failed, judge="verifier", reason="the call <timed> out")]
        stage.write_records("scored_00000", groups, ScoredGroup)
        stage.write_records("unjudged_00000", bad, Unjudged)

    def pairs(self, stage: Stage) -> dict[str, int]:
        scored = {group.prompt_id: group for group in self.groups}
        pairs, decisions = build_pairs(self.outputs, scored, PairsConfig(), seed=0)
        stage.write_records("pairs", pairs, PreferencePair)
        stage.write_records("decisions", decisions, PairDecision)
        return pair_counts(decisions)

    def reference(self, stage: Stage) -> None:
        pass

    def training(self, stage: Stage) -> None:
        self.log()
        stage.note("steps.jsonl")

    def log(self, torn: bool = False) -> None:
        lines = []
        for step in range(60):
            gain = step / 60
            noise = self.rng.gauss(0, 0.05)
            response, thought = 0.5 * gain + noise, (0.3 * gain + noise) * self.thought
            entry = {
                "step": step,
                "epoch": step // 20 + 1,
                "loss": 0.693 - 0.3 * gain + noise,
                "accuracy": min(1.0, 0.5 + 0.4 * gain + noise),
                "margin": response + thought,
                "chosen_reward": 0.4 * (response + thought),
                "rejected_reward": -0.6 * (response + thought),
                "chosen_thought_reward": 0.4 * thought,
                "chosen_response_reward": 0.4 * response,
                "rejected_thought_reward": -0.6 * thought,
                "rejected_response_reward": -0.6 * response,
                "tokens": 4096,
            }
            lines.append(str(entry).replace("'", '"'))
        text = "\n".join(lines) + ('\n{"step": 60, "lo' if torn else "\n")
        write_bytes(self.place / "training" / "steps.jsonl", text.encode())

    def selection(self, stage: Stage) -> None:
        scores = [
            {"epoch": e, "score": 0.4 + 0.05 * (e % 3), "parse_failures": 0.1} for e in (1, 2, 3)
        ]
        choice = {"chosen_epoch": 2, "scores": scores, "reason": "highest mean judge score"}
        stage.write_json("choice.json", choice)


def _evaluation(run: Path, arm: Arm, policy: int, test: list[Prompt]) -> None:
    rng = random.Random(f"test {arm} {policy}")
    answers: list[Answer] = []
    for prompt in test:
        rollout, score = _rollout(arm, policy, prompt, 0, rng)
        answers.append(
            Answer(
                prompt_id=prompt.prompt_id,
                sample_index=0,
                attempts=1 if rollout.parsed.response else 3,
                completion=rollout.completion,
                parsed=rollout.parsed,
                thought_tokens=rollout.response_start,
                response_tokens=rollout.response_tokens,
                score=score if rollout.parsed.response else None,
            )
        )
    scores = {answer.prompt_id: answer.score or 0.0 for answer in answers}
    result = mean_result("test_score", list(scores.values()))
    folder = run / "evaluation" / arm / f"policy_{policy}"
    stage = Stage(folder, name="evaluation", version=1, config={})
    stage.write_records("answers", answers, Answer)
    stage.seal(
        {
            "test_score": result.value,
            "interval": list(ends_of(result)),
            "count": result.count,
            "scores": dict(scores),
            "statuses": dict(Counter(str(answer.parsed.status) for answer in answers)),
            "parse_failures": sum(answer.score is None for answer in answers) / len(answers),
            "thought_tokens": sum(answer.thought_tokens for answer in answers) / len(answers),
            "response_tokens": sum(answer.response_tokens for answer in answers) / len(answers),
            "attempts": len(answers),
            "new_tokens": sum(len(answer.completion.token_ids) for answer in answers),
        }
    )


def write_measures(run: Path, arms: tuple[Arm, ...] = ("thought", "direct"), last: int = 2) -> None:
    """Seal what the measures of policies 0 to `last` would have found."""
    for policy in range(last + 1):
        _measure(run, "win_rate", "thought", policy, _win_rates(policy))
        _measure(run, "probe", "thought", policy, _probes(policy))
        for arm in arms:
            value = 0.62 - 0.04 * policy + 0.05 * (arm == "thought")
            figures = [_figure("gsm8k", value), _figure("gsm8k_answer_only", value / 2)]
            _measure(run, "gsm8k", arm, policy, figures)
            percent = [
                _figure("win_rate", 20 + 4 * policy, width=3),
                _figure("length_controlled_win_rate", 22 + 4 * policy, width=2),
                _figure("win_rate", 31 + policy, width=9, category="helpful_base"),
                _figure("win_rate", 14 + policy, width=9, category="vicuna"),
            ]
            _measure(run, "alpaca_eval", arm, policy, percent)
            figures = [_figure("arena_hard", 18.5 + 2 * policy, width=2.5)]
            _measure(run, "arena_hard", arm, policy, figures)


def _figure(
    name: str, value: float, width: float = 0.05, category: str | None = None
) -> EvaluationResult:
    interval = (value - width, value + width)
    return EvaluationResult(name=name, value=value, interval=interval, count=40, category=category)


def _win_rates(policy: int) -> list[EvaluationResult]:
    value = 0.44 + 0.1 * policy
    figures = [
        _figure("win_rate", value, width=0.08),
        _figure("length_controlled_win_rate", value + 0.02, width=0.08),
        _figure("win_rate_best_of_n", value - 0.05, width=0.08),
        _figure("win_rate_longer", value - 0.02, width=0.08),
    ]
    figures += [
        _figure("win_rate", value + 0.04 * place - 0.08, width=0.2, category=category)
        for place, category in enumerate(CATEGORIES)
    ]
    return figures


def _probes(policy: int) -> list[EvaluationResult]:
    drops = {"none": 0.02 + 0.1 * policy, "other": 0.03 + 0.12 * policy, "half": 0.05 * policy}
    own = 0.4 + 0.2 * policy
    figures = [_figure("probe_own", own)]
    figures += [_figure(f"probe_{name}", own - drop) for name, drop in drops.items()]
    for name, drop in drops.items():
        figures.append(_figure(f"probe_drop_{name}", drop, width=0.06))
        figures += [
            _figure(f"probe_drop_{name}", drop + 0.05 * place - 0.1, width=0.1, category=category)
            for place, category in enumerate(CATEGORIES)
        ]
    habits = {
        "draft_copied": 0.5 - 0.2 * policy,
        "mentions_format": 0.2 - 0.05 * policy,
        "empty_thoughts": 0.02,
        "runaway_thoughts": 0.1 - 0.04 * policy,
    }
    return figures + [_figure(f"probe_{name}", value) for name, value in habits.items()]


def _measure(run: Path, name: str, arm: Arm, policy: int, figures: list[EvaluationResult]) -> None:
    folder = run / "measures" / name / arm / f"policy_{policy}"
    stage = Stage(folder, name=name, version=1, config={"measure": {"attempts": 3}})
    counts: dict[str, Any] = {
        "results": [asdict(figure) | {"interval": list(ends_of(figure))} for figure in figures]
    }
    if name == "win_rate":
        counts["tokens_per_prompt"] = {"first": 80.0, "second": 30.0, "best_of_n": 90.0}
    if name == "alpaca_eval":
        counts["judge_calls"] = {
            "calls": 40,
            "hits": 2,
            "prompt_tokens": 52_000,
            "completion_tokens": 41,
            "cost": 0.52,
        }
    stage.seal(counts)
