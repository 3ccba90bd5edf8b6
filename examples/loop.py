"""Thought Preference Optimization on one page (Wu et al. 2024, arXiv 2410.10630, section 2).

This is the loop of `forethought run` for its thought arm, on the same functions, without all that
makes a run safe: nothing is resumed, no prompt is left out, nothing is drawn or reported.

    python examples/loop.py    # the microworld that ships with the package, on two CPU cores

It prints the share of right answers to prompts that it never trains on, before and after.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from forethought.config import (
    MicroworldPrompts,
    ModelConfig,
    PairsConfig,
    TrainingConfig,
    TransformersEngine,
    VerifierJudge,
)
from forethought.decoding.request import SamplingParams
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.microworld.tasks import Split
from forethought.pairs import chosen_pairs, decide, outcomes, possible_pairs
from forethought.prompts.split import load_prompts
from forethought.sampling.base import one_prompt, stable_seed
from forethought.sampling.open import open_sampler
from forethought.stages.judged.judge_inputs import response_groups, scored_group
from forethought.stages.policies.sampled_policy import OutputSplitter
from forethought.thoughts import GENERIC
from forethought.training.reference import reference_logprobs
from forethought.training.train import train
from forethought.types import Judgement, PreferencePair, Prompt, Rollout, SampleRequest, ScoredGroup

SEED, ITERATIONS, PROMPTS, SAMPLES = 0, 2, 640, 8
JUDGE = VerifierJudge(function="microworld")
SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=128)
TRAINING = TrainingConfig(beta=0.3, learning_rate=1e-4, epochs=2, batch_size=32)
Rollouts = Mapping[str, Sequence[Rollout]]  # by prompt_id


def sample(policy: ModelConfig, prompts: Sequence[Prompt], *, samples: int, use: str) -> Rollouts:
    """Ask for a thought and then a response, and split each output where its response begins."""
    requests = [
        SampleRequest(
            prompt_id=prompt.prompt_id,
            messages=GENERIC.apply(prompt.messages),
            seeds=tuple(stable_seed(SEED, use, prompt.prompt_id, k) for k in range(samples)),
        )
        for prompt in prompts
    ]
    splitter = OutputSplitter(GENERIC, policy)
    with open_sampler(TransformersEngine(rows=2048), model=policy, params=SAMPLING) as sampler:
        sampled = map(one_prompt, sampler.sample(requests))
        return {outputs.prompt_id: splitter(outputs) for outputs in sampled}


def judge(prompts: Sequence[Prompt], rollouts: Rollouts) -> dict[str, ScoredGroup]:
    """Score the responses of each prompt. What the judge is shown has no place for a thought."""
    responses = [
        {rollout.sample_index: rollout.parsed.response for rollout in rollouts[prompt.prompt_id]}
        for prompt in prompts
    ]
    indices, groups = response_groups(list(zip(prompts, responses, strict=True)))
    with open_judge(JUDGE) as opened:
        answers = zip(indices, checked(opened, groups), strict=True)
        scored = [scored_group(shown, one) for shown, one in answers if isinstance(one, Judgement)]
    return {group.prompt_id: group for group in scored}


def pair(rollouts: Rollouts, scored: Mapping[str, ScoredGroup]) -> list[PreferencePair]:
    """Best and worst output of each prompt, thoughts included; rho is the length control."""
    offers, possible = possible_pairs(rollouts, scored, PairsConfig(rho=0.0))
    decisions = decide(offers, max_unparsable=0.1, seed=SEED)
    return list(chosen_pairs(possible, outcomes(decisions)))


def score(policy: ModelConfig, prompts: Sequence[Prompt]) -> float:
    """Mean score of one answer to each prompt; one without a response scores 0."""
    scored = judge(prompts, sample(policy, prompts, samples=1, use="score"))
    return sum(group.scores[0] for group in scored.values()) / len(prompts)


def optimise(policy: ModelConfig, pairs: list[PreferencePair], folder: Path) -> list[ModelConfig]:
    """DPO on whole outputs, with the policy it starts from as reference; the policy each epoch."""
    model, device = policy.source, "cpu"
    reference = reference_logprobs(model, pairs, TRAINING, device=device)
    train(
        model=model, pairs=pairs, reference=reference, config=TRAINING,
        seed=SEED, directory=folder, device=device,
    )  # fmt: skip
    return [policy.at(str(folder / f"epoch_{n}")) for n in range(1, TRAINING.epochs + 1)]


def draw(split: Split, count: int) -> list[Prompt]:
    """Prompts of the microworld; none of one split is in another."""
    return load_prompts([MicroworldPrompts(split=split, count=count)], str).prompts


def loop(folder: Path) -> Iterator[float]:
    """The test score of the seed, and of the policy after each iteration."""
    prompts, validation, test = draw("train", 1280), draw("validation", 200), draw("test", 500)
    policy = ModelConfig(path="microworld")
    yield score(policy, test)
    for i in range(ITERATIONS):
        fresh = prompts[i * PROMPTS : (i + 1) * PROMPTS]
        rollouts = sample(policy, fresh, samples=SAMPLES, use=f"iteration {i}")
        epochs = optimise(policy, pair(rollouts, judge(fresh, rollouts)), folder / str(i))
        policy = max(epochs, key=lambda epoch: score(epoch, validation))
        yield score(policy, test)


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        for iteration, share in enumerate(loop(Path(directory))):
            print(f"after {iteration} iterations: {share:.3f} right", flush=True)
