"""Which of a prompt's several answers is its best, without asking the judge that compares later.

A judge that grades is an oracle for who draws several answers: only one of them need be right.
These are what a policy can do alone. `vote`: self-consistency (Wang et al. 2022, arXiv 2203.11171),
the response that most of the answers agree on. `likelihood`: the answer that the policy itself
finds likeliest per token, of all tokens that it wrote (the same paper's normalised probability).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from forethought.config import TrainingConfig
from forethought.models import loading, rendering
from forethought.stages.policies.sampled_policy import Policy
from forethought.types import Answer, Prompt, TrainingExample

Pick = Literal["judge", "likelihood", "vote"]
AROUND = " \t\n.,;:!?\"'`*_()[]"
"""What does not count at the ends of a response; a sign or unit of a number does."""


def rival_name(pick: Pick) -> str:
    """What the best of several is called in figures and files: it says how it was picked."""
    return "best_of_n" if pick == "judge" else f"best_of_n_by_{pick}"


def first_best(answers: Sequence[Answer], value: Callable[[Answer], float]) -> list[Answer]:
    """Each prompt's answer of the greatest value, by prompt id; the first drawn of equal ones.

    One without a response is taken only where no other is there.
    """
    by_prompt: dict[str, list[Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt_id, []).append(answer)

    def rank(answer: Answer) -> tuple[bool, float, int]:
        return answer.parsed.response is not None, value(answer), -answer.sample_index

    return [max(by_prompt[prompt_id], key=rank) for prompt_id in sorted(by_prompt)]


def by_vote(answers: Sequence[Answer]) -> list[Answer]:
    """Each prompt's most frequent response, in the words of the first answer that gave it."""
    votes = Counter((answer.prompt_id, normalised(answer.parsed.response)) for answer in answers)
    return first_best(answers, lambda one: votes[one.prompt_id, normalised(one.parsed.response)])


def normalised(response: str | None) -> str | None:
    """A response as it is counted: case, the amount of white space, and brackets, quotation marks
    or stops around it make no other one."""
    return None if response is None else " ".join(response.casefold().strip(AROUND).split())


def by_likelihood(
    answers: Sequence[Answer], policy: Policy, prompts: Sequence[Prompt]
) -> list[Answer]:
    """Each prompt's answer with the highest mean log-prob per token under the policy itself."""
    means = mean_logprobs(answers, policy, prompts)
    return first_best(answers, lambda one: means[one.prompt_id, one.sample_index])


def mean_logprobs(
    answers: Sequence[Answer], policy: Policy, prompts: Sequence[Prompt]
) -> dict[tuple[str, int], float]:
    """Mean log-prob per token, end token included, in nats and at temperature 1, by prompt and
    sample.

    Raises: ValueError if the policy cannot be loaded.
    """
    from forethought.training.reference import output_logprobs

    assert policy.sampling.loads_model, "refused with the recipe"
    source, asked = policy.model.source, policy.thought_format
    tokenizer = loading.load_tokenizer(source)
    rendered = {
        prompt.prompt_id: rendering.render(
            tokenizer, asked.apply(prompt.messages), policy.model.template
        )
        for prompt in prompts
    }
    examples = [
        TrainingExample(
            prompt_id=answer.prompt_id,
            sample_index=answer.sample_index,
            prompt_token_ids=rendered[answer.prompt_id],
            token_ids=answer.completion.token_ids,
            response_start=0,
            score=None,
        )
        for answer in answers
        if answer.completion.token_ids
    ]
    sums = output_logprobs(
        source,
        examples,
        TrainingConfig(dtype=policy.model.dtype),
        device=str(loading.pick_device(policy.model.device)),
    )
    means = {(answer.prompt_id, answer.sample_index): float("-inf") for answer in answers}
    for example, total in zip(examples, sums, strict=True):
        means[example.prompt_id, example.sample_index] = total / len(example.token_ids)
    return means
