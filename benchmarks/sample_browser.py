"""How quick the sample browser is with 20,000 rollouts of real length.

Writes a run of four iterations, two arms, 313 prompts an iteration and 8 samples a prompt, some
700 tokens each, and its page; opens the page in Chromium and measures. Words are drawn by Zipf's
law from a made-up vocabulary, so that the text compresses about as English does.

    python benchmarks/sample_browser.py FOLDER
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from forethought.config import PairsConfig, Recipe
from forethought.pairs import chosen_pairs, decide, outcomes, pair_counts, possible_pairs
from forethought.report.page import write_report
from forethought.storage.files import write_json
from forethought.storage.open_stage import Stage
from forethought.thoughts import DIRECT, GENERIC
from forethought.types import (
    Answer,
    Arm,
    Completion,
    Message,
    PairDecision,
    PreferencePair,
    Prompt,
    Rollout,
    ScoredGroup,
)

ITERATIONS, PROMPTS, SAMPLES, TESTS = 4, 313, 8, 300
WORDS = 520
"""Of an output: some 700 tokens of a common tokenizer."""
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Writer:
    """Text that compresses about as English does."""

    def __init__(self) -> None:
        self.rng = random.Random(0)
        letters = "etaoinshrdlcumwfgypbvk"
        self.words = ["".join(self.rng.choices(letters, k=1 + i % 9)) for i in range(12_000)]
        self.weights = [1 / (rank + 3) for rank in range(len(self.words))]

    def text(self, count: int) -> str:
        """Words in sentences and paragraphs."""
        words = self.rng.choices(self.words, self.weights, k=count)
        for place in range(12, count, 13):
            words[place] += ".\n\n" if place % 52 == 0 else "."
        return " ".join(words)

    def rollout(self, arm: Arm, prompt: Prompt, index: int) -> Rollout:
        """One output, with a thought in the thought arm."""
        text = self.text(WORDS)
        if arm == "thought":
            thought, response = text[: len(text) // 2], text[len(text) // 2 :]
            text = f"Here is my thought process: {thought}\nHere is my response: {response}"
        return Rollout(
            prompt_id=prompt.prompt_id,
            sample_index=index,
            prompt_token_ids=(0,),
            completion=Completion(text=text, token_ids=(1, 2), finish_reason="stop"),
            parsed=(DIRECT if arm == "direct" else GENERIC).parse(text, "stop"),
            response_start=350,
            response_tokens=350,
        )

    def prompts(self, kind: str, count: int) -> list[Prompt]:
        """Prompts of four categories."""
        return [
            Prompt(
                prompt_id=f"{kind}{number:012d}",
                messages=(Message(role="user", content=self.text(40)),),
                category=f"category {number % 4}",
                source="made up",
                reference=None,
            )
            for number in range(count)
        ]


def write_run(run: Path) -> None:
    """A complete run directory without models."""
    recipe = Recipe.model_validate(
        {
            "run": run,
            "model": {"path": "microworld"},
            "iterations": ITERATIONS,
            "prompts_per_iteration": PROMPTS,
            "prompts": {
                "train": [{"type": "microworld", "count": 1}],
                "validation": {"count": 10},
                "test": {"count": TESTS},
            },
            "sampling": {"type": "transformers", "samples": SAMPLES},
            "judge": {"type": "verifier", "function": "microworld"},
        }
    )
    write_json(run / "config.json", recipe.model_dump(mode="json"))
    writer = Writer()
    train, test = writer.prompts("train", ITERATIONS * PROMPTS), writer.prompts("test", TESTS)
    stage = Stage(run / "prompts", name="prompts", version=1, config={})
    stage.write_records("train", train, Prompt)
    stage.write_records("test", test, Prompt)
    stage.seal({"train": len(train)})
    for arm in recipe.arms:
        for number in range(ITERATIONS):
            own = train[number * PROMPTS : (number + 1) * PROMPTS]
            _iteration(run / arm / f"iteration_{number}", arm, own, writer)
        for number in range(ITERATIONS + 1):
            _evaluation(run / "evaluation" / arm / f"policy_{number}", arm, test, writer)


def _iteration(place: Path, arm: Arm, prompts: list[Prompt], writer: Writer) -> None:
    outputs = {
        prompt.prompt_id: [writer.rollout(arm, prompt, index) for index in range(SAMPLES)]
        for prompt in prompts
    }
    groups = [
        ScoredGroup(
            prompt_id=prompt_id,
            judge="made up",
            sample_indices=tuple(range(SAMPLES)),
            scores=tuple(writer.rng.gauss(0, 1) for _ in rollouts),
            evidence="",
        )
        for prompt_id, rollouts in outputs.items()
    ]
    scored = {group.prompt_id: group for group in groups}
    rules = PairsConfig()
    offers, possible = possible_pairs(outputs, scored, rules)
    decisions = decide(offers, rules.max_unparsable, seed=0)
    pairs = list(chosen_pairs(possible, outcomes(decisions)))
    every = [rollout for rollouts in outputs.values() for rollout in rollouts]
    parts: dict[str, list[tuple[str, list[Any], type]]] = {
        "rollouts": [("part_00000", every, Rollout)],
        "judgements": [("scored_00000", groups, ScoredGroup)],
        "pairs": [("pairs", pairs, PreferencePair), ("decisions", decisions, PairDecision)],
    }
    for name, records in parts.items():
        stage = Stage(place / name, name=name, version=1, config={})
        for part, rows, kind in records:
            stage.write_records(part, rows, kind)
        stage.seal(dict(pair_counts(decisions)) if name == "pairs" else {})


def _evaluation(folder: Path, arm: Arm, prompts: list[Prompt], writer: Writer) -> None:
    answers = [_answer(writer.rollout(arm, prompt, 0), writer.rng.random()) for prompt in prompts]
    scores = {answer.prompt_id: answer.score for answer in answers}
    stage = Stage(folder, name="evaluation", version=1, config={})
    stage.write_records("answers", answers, Answer)
    stage.seal(
        {
            "test_score": 0.5,
            "interval": [0.4, 0.6],
            "count": len(answers),
            "scores": scores,
            "statuses": {"complete": len(answers)},
            "parse_failures": 0.0,
            "thought_tokens": 350.0,
            "response_tokens": 350.0,
            "attempts": len(answers),
            "new_tokens": 700 * len(answers),
        }
    )


def _answer(rollout: Rollout, score: float) -> Answer:
    return Answer(
        prompt_id=rollout.prompt_id,
        sample_index=0,
        attempts=1,
        completion=rollout.completion,
        parsed=rollout.parsed,
        thought_tokens=rollout.response_start,
        response_tokens=rollout.response_tokens,
        score=score,
    )


SEARCH = """async (words) => {
  const status = document.getElementById("matches");
  const input = document.querySelector("#filters input[name=text]");
  const changed = new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      if (status.textContent.startsWith("Searching")) return;
      observer.disconnect();
      resolve();
    });
    observer.observe(status, { childList: true });
  });
  input.value = words;
  const started = performance.now();
  input.dispatchEvent(new Event("input", { bubbles: true }));
  await changed;
  return [performance.now() - started, status.textContent];
}"""
SCROLL = """async () => {
  const box = document.getElementById("cases");
  let worst = 0, frames = 0, most = 0;
  const started = performance.now();
  let last = started;
  while (performance.now() - started < 3000) {
    box.scrollTop += 180;
    await new Promise(requestAnimationFrame);
    worst = Math.max(worst, performance.now() - last);
    last = performance.now();
    frames++;
    most = Math.max(most, box.querySelectorAll(".case").length);
  }
  return [frames / 3, worst, most];
}"""


def measure(page: Page, target: Path) -> Iterator[str]:
    """Lines of what was measured."""
    started = time.perf_counter()
    page.goto(target.as_uri(), wait_until="commit")
    page.wait_for_selector("#cases .output")
    yield f"first list after {time.perf_counter() - started:.2f} s"
    yield page.locator("#matches").inner_text()
    page.wait_for_timeout(6000)
    for words in (
        "e",
        "th",
        "the",
        "zqx",
        "hello there",
        page.locator(".text").nth(9).inner_text()[:30],
    ):
        milliseconds, text = page.evaluate(SEARCH, words)
        page.wait_for_timeout(300)
        yield f"search {words!r}: {milliseconds - 120:.0f} ms after the 120 ms of waiting: {text}"
    page.evaluate(SEARCH, "")
    frames, worst, most = page.evaluate(SCROLL)
    yield f"scrolling: {frames:.0f} frames/s, longest frame {worst:.0f} ms, at most {most} cards"
    heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    yield f"heap {heap:.0f} MB"


def main() -> None:
    """Write, open, measure."""
    folder = Path(sys.argv[1])
    run, target = folder / "run", folder / "report.html"
    if not (run / "config.json").is_file():
        write_run(run)
    started = time.perf_counter()
    write_report(run, target)
    size = target.stat().st_size / 1e6
    print(f"page of {size:.1f} MB made in {time.perf_counter() - started:.1f} s")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for line in measure(browser.new_page(viewport={"width": 1200, "height": 900}), target):
            print(line)
        browser.close()


if __name__ == "__main__":
    main()
