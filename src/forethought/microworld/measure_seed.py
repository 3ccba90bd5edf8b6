"""Samples the seed model on test tasks and says how it does in both prompt formats.

The figures go into the seed model's card; the command line shows them again:
    python -m forethought.microworld.measure_seed [--model FOLDER] [--count 960]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final, Literal

import torch
from transformers import LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer

from forethought.microworld.categories import CATEGORIES, SEVERAL_STEPS
from forethought.microworld.demonstrations import WORKED_OPENERS
from forethought.microworld.prompts import thought_prompt
from forethought.microworld.tasks import WorldTask, generate
from forethought.microworld.tokenizer import END, render, token_id
from forethought.microworld.verifier import grade
from forethought.models import loading
from forethought.thoughts import DIRECT, GENERIC

Mode = Literal["direct", "thought"]

SEED_FOLDER: Final = Path(__file__).parent / "seed_model"
TEMPERATURE: Final = 0.8
TOP_P: Final = 0.95
MAX_NEW_TOKENS: Final = 128
SAMPLE_SEED: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sampled output and its grade."""

    task: WorldTask
    text: str
    """The whole output, special tokens removed."""
    thought: str | None
    """None in the direct format and where the output could not be split."""
    score: float
    parsed: bool
    """Whether there is a response: the format is kept and the output was finished."""
    tokens: int
    """Length of the output, the end-of-turn token included."""

    @property
    def worked(self) -> bool:
        """Whether the thought sets out to work the problem out, by its first words."""
        return self.thought is not None and self.thought.startswith(WORKED_OPENERS)


def sample(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    tasks: Sequence[WorldTask],
    mode: Mode,
    batch: int = 240,
) -> list[Sample]:
    """One output per task at the temperature and top-p of the paper."""
    torch.manual_seed(SAMPLE_SEED)
    samples: list[Sample] = []
    for start in range(0, len(tasks), batch):
        part = tasks[start : start + batch]
        prompts = [
            render(tokenizer, [{"role": "user", "content": _content(task, mode)}]) for task in part
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        prompt_BT = inputs["input_ids"]
        assert isinstance(prompt_BT, torch.Tensor)
        # Prompts are padded on the left, so the outputs of all begin in one column.
        # The stubs of transformers do not see that a Llama can generate.
        outputs = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids=prompt_BT,
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            max_new_tokens=MAX_NEW_TOKENS,
        )[:, prompt_BT.shape[1] :]
        for task, output_ids in zip(part, outputs.tolist(), strict=True):
            samples.append(_graded(tokenizer, task, output_ids, mode))
    return samples


def _content(task: WorldTask, mode: Mode) -> str:
    return task.query if mode == "direct" else thought_prompt(task.query)


def _graded(tokenizer: Tokenizer, task: WorldTask, output_ids: list[int], mode: Mode) -> Sample:
    end = token_id(tokenizer, END)
    finished = end in output_ids
    length = output_ids.index(end) + 1 if finished else len(output_ids)
    text = str(tokenizer.decode(output_ids[:length], skip_special_tokens=True))
    output = (GENERIC if mode == "thought" else DIRECT).parse(
        text, "stop" if finished else "length"
    )
    score = 0.0
    if output.response is not None:
        score = grade(task.query, task.category, task.reference, output.response)
    parsed = output.response is not None
    thought = output.thought
    return Sample(task=task, text=text, thought=thought, score=score, parsed=parsed, tokens=length)


def _share(values: Sequence[bool]) -> str:
    return f"{fmean(values):.3f}" if values else "-"


def _mean_score(samples: Sequence[Sample]) -> str:
    return f"{fmean(sample.score for sample in samples):.3f}" if samples else "-"


def _half(samples: Sequence[Sample], several: bool) -> list[Sample]:
    return [sample for sample in samples if (sample.task.category in SEVERAL_STEPS) == several]


def table(direct: Sequence[Sample], thought: Sequence[Sample]) -> str:
    """The figures of both formats as Markdown."""
    worked = [sample for sample in thought if sample.worked]
    both = (direct, thought)
    rows = [
        ("mean score", *map(_mean_score, both)),
        *(
            (
                f"mean score, categories of {title}",
                *(_mean_score(_half(arm, several)) for arm in both),
            )
            for title, several in (("several steps", True), ("one step", False))
        ),
        ("share of worked thoughts", "", _share([sample.worked for sample in thought])),
        ("mean score given a worked thought", "", _mean_score(worked)),
        ("outputs without a response", *(_share([not s.parsed for s in arm]) for arm in both)),
        ("tokens per output, mean", *(f"{fmean(s.tokens for s in arm):.1f}" for arm in both)),
        ("tokens per output, median", *(f"{median(s.tokens for s in arm):g}" for arm in both)),
        ("tokens per output, most", *(str(max(s.tokens for s in arm)) for arm in both)),
    ]
    lines = ["| | direct | thought |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", "| category | direct | thought | thought, if worked |", "|---|---|---|---|"]
    for category in CATEGORIES:
        arms = (
            [s for s in arm if s.task.category == category] for arm in (direct, thought, worked)
        )
        lines.append(f"| {category} | {' | '.join(_mean_score(arm) for arm in arms)} |")
    return "\n".join(lines)


def measure(folder: Path, count: int) -> str:
    """The table for the model in `folder`, over `count` test tasks."""
    tokenizer: Any = loading.load_tokenizer(str(folder), chat=False)
    model: Any = loading.load_model(str(folder), dtype="float32", device="cpu")
    tasks = generate("test", count, SAMPLE_SEED)
    return table(
        sample(model, tokenizer, tasks, "direct"), sample(model, tokenizer, tasks, "thought")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=SEED_FOLDER)
    parser.add_argument("--count", type=int, default=960)
    arguments = parser.parse_args()
    print(measure(arguments.model, arguments.count))


if __name__ == "__main__":
    main()
