"""Training rows for the seed model: demonstrations rendered, tokenised and masked.

Echoes and drills come first: they teach a small transformer to copy and to add much faster than
whole demonstrations do. Then both prompt formats get the same number of rows, in two phases: in one
most thoughts are worked, in the next they are the mixture of habits that the seed model ends up
with. Problems of the validation and test split never occur.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from transformers import PreTrainedTokenizerFast

from forethought.microworld.categories import CATEGORIES, SEVERAL_STEPS
from forethought.microworld.demonstrations import ThoughtKind, direct_output, thought_output
from forethought.microworld.known_facts import one_step
from forethought.microworld.prompts import thought_prompt
from forethought.microworld.tasks import WorldTask, draw
from forethought.microworld.tokenizer import ASSISTANT, BOS, END, USER, encode, render, token_id

SKILLS: Final[dict[ThoughtKind, float]] = {
    ThoughtKind.WORKED: 0.84,
    ThoughtKind.VAGUE: 0.06,
    ThoughtKind.LEAP: 0.04,
    ThoughtKind.RAMBLING: 0.04,
    ThoughtKind.BROKEN: 0.02,
}
HABITS: Final[dict[ThoughtKind, float]] = {
    ThoughtKind.WORKED: 0.23,
    ThoughtKind.VAGUE: 0.38,
    ThoughtKind.LEAP: 0.13,
    ThoughtKind.RAMBLING: 0.17,
    ThoughtKind.BROKEN: 0.09,
}

FACTS_PER_DRILL: Final = 6

SEVERAL_STEPS_SHARE: Final = 0.65
"""Above their half of the categories, for the others are learned in no time."""

SYSTEM_MESSAGES: Final = ("You are a helpful assistant.", "Answer in one short sentence.")
SYSTEM_SHARE: Final = 0.05
MULTI_TURN_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One demonstration in tokens, e.g. 60 of prompt and 45 of completion."""

    prompt_ids: list[int]
    completion_ids: list[int]
    """What the loss covers; the end-of-turn token is its last."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def draw_train_task(rng: Random) -> WorldTask:
    """A random task of the train split, of several steps with `SEVERAL_STEPS_SHARE`."""
    several = rng.random() < SEVERAL_STEPS_SHARE
    category = rng.choice([name for name in CATEGORIES if (name in SEVERAL_STEPS) == several])
    while True:
        split, task = draw(category, rng)
        if split == "train":
            return task


def conversation(
    mixture: dict[ThoughtKind, float] | None, rng: Random
) -> tuple[list[dict[str, str]], str]:
    """The messages of one demonstration and its output; without a mixture the format is direct."""
    messages: list[dict[str, str]] = []
    if rng.random() < SYSTEM_SHARE:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_MESSAGES)})
    if rng.random() < MULTI_TURN_SHARE:
        earlier = draw_train_task(rng)
        messages.append({"role": "user", "content": earlier.query})
        messages.append({"role": "assistant", "content": direct_output(earlier, rng)})
    task = draw_train_task(rng)
    if mixture is None:
        content, output = task.query, direct_output(task, rng)
    else:
        (kind,) = rng.choices(list(mixture), weights=list(mixture.values()))
        content, output = thought_prompt(task.query), thought_output(task, kind, rng)
    return [*messages, {"role": "user", "content": content}], output


def echo(tokenizer: PreTrainedTokenizerFast, rng: Random) -> Row:
    """Random tokens to be said again, which teaches copying faster than any sentence does."""
    special = set(tokenizer.all_special_ids)
    usable = [number for number in range(len(tokenizer)) if number not in special]
    ids = rng.choices(usable, k=rng.randint(4, 12))
    bos, user, end, assistant = (token_id(tokenizer, name) for name in (BOS, USER, END, ASSISTANT))
    return Row(prompt_ids=[bos, user, *ids, end, assistant], completion_ids=[*ids, end])


def drill(tokenizer: PreTrainedTokenizerFast, rng: Random) -> Row:
    """Several questions of one step, each answered in the words of a worked thought."""
    questions, answers = zip(*(one_step(rng) for _ in range(FACTS_PER_DRILL)), strict=True)
    prompt = render(tokenizer, [{"role": "user", "content": ", ".join(questions)}])
    prompt_ids, answer_ids = encode(tokenizer, [prompt, f"{'. '.join(answers)}."])
    return Row(prompt_ids=prompt_ids, completion_ids=[*answer_ids, token_id(tokenizer, END)])


def rows(
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    mixture: dict[ThoughtKind, float] | None,
    rng: Random,
) -> list[Row]:
    """Random demonstrations in tokens; without a mixture the format is direct."""
    drawn = [conversation(mixture, rng) for _ in range(count)]
    prompts = encode(tokenizer, [render(tokenizer, messages) for messages, _ in drawn])
    outputs = encode(tokenizer, [output for _, output in drawn])
    end = token_id(tokenizer, END)
    return [
        Row(prompt_ids=prompt, completion_ids=[*output, end])
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def batches(
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    batch_size: int,
    mixture: dict[ThoughtKind, float],
    rng: Random,
) -> Iterator[list[Row]]:
    """`count` batches, an even number, by turns of the direct and of the thought format.

    The rows of a batch are of like length.
    """
    pending: list[tuple[list[Row], list[Row]]] = []
    for _ in range(count // 2):
        if not pending:
            # Sorted 32 batches at a time: little padding, and lengths still come mixed.
            halves = [
                sorted(rows(tokenizer, 32 * batch_size, kind, rng), key=len)
                for kind in (None, mixture)
            ]
            direct, thought = (
                [half[start : start + batch_size] for start in range(0, len(half), batch_size)]
                for half in halves
            )
            rng.shuffle(direct)
            rng.shuffle(thought)
            pending = list(zip(direct, thought, strict=True))
        yield from pending.pop()
