"""Every engine of a recipe opened once before a run samples: what cannot work is said unpaid.

One after the other, each closed before the next is opened, in the way of the stages: this process
or workers, the same device and number type.

- The policy's sampler draws two tokens for one prompt of the run.
- The questions of a measure are read.
- A judge that computes by itself (reward_model, armorm, a verifier of ours) scores two made-up
  responses; a chat model as judge draws two tokens. Members of a mixture are opened by themselves.
- A server that is to sample the policy is held against it; others have shown that they are there
  (first_look.py).
- What a user has written, a verifier's function or a custom judge, is opened, not asked: that may
  cost, and it may rightly fail on a made-up response.
- The model is trained for one tiny step (training/trial.py), where one process trains.

What a sealed stage has shown to work is not opened again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

from forethought.config import (
    JudgeConfig,
    LaunchConfig,
    LLMJudge,
    Recipe,
)
from forethought.decoding.request import SamplingParams
from forethought.judging.executor import judging_executor
from forethought.judging.llm.verdicts import open_model
from forethought.judging.look import mistake_in
from forethought.judging.open import open_judge
from forethought.models.model_cache import no_model_cache
from forethought.progress.under_way import listening
from forethought.runs.layout import WARM_START, StageRef
from forethought.sampling.base import one_prompt
from forethought.stages.measures import accuracy
from forethought.stages.policies.sampled_policy import Policy
from forethought.storage.reply_cache import Cache
from forethought.thoughts import DIRECT, load_format
from forethought.types import Judgement, Message, Prompt, ResponseGroup, SampleRequest

ENGINES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "gsm8k": (frozenset({"gsm8k"}), frozenset({"gsm8k"})),
    "alpaca_eval": (frozenset({"alpaca_eval"}), frozenset({"alpaca_eval"})),
    "arena_hard": (frozenset({"arena_hard"}), frozenset({"arena_hard"})),
    "second_judge": (frozenset({"second_judge"}), frozenset({"second_judge"})),
    "judge": (
        frozenset({"judgements", "selection", "evaluation", "win_rate", "probe"}),
        frozenset({"judgements"}),
    ),
    "sampling": (
        frozenset({"rollouts", "selection", "evaluation"}),
        frozenset({"rollouts", "evaluation"}),
    ),
    "training": (frozenset({"training"}), frozenset({"reference", "training"})),
}
"""Stages that need each, and those that have shown it to work when they are sealed. In the order in
which they are opened: what costs least comes first."""
ONLY_LOOKED_AT = frozenset({"alpaca_eval", "arena_hard"})
"""Their judges are servers, of which a first look has told all that is free."""
SECOND = "measures.second_judge.judge"
"""Its place in the recipe."""
TOKENS = 2
"""Drawn of a model."""
PROMPTS = 32
"""Most that a judge is tried on: some prompts of a run it may rightly refuse."""
RESPONSES = ("Yes.", "No.")
GREETING = Message(role="user", content="Hello.")


def owed_engines(refs: Iterable[StageRef]) -> list[str]:
    """What the owed stages need and no sealed one has shown to work, in order."""
    owed, sealed = set[str](), set[str]()
    launch = LaunchConfig()
    for ref in refs:
        launch = ref.recipe.launch
        (sealed if ref.sealed else owed).add(ref.stage)
    if launch.type != "local":
        # Processes that train together need memory that one of them has not.
        owed.discard("training")
    names = [
        name
        for name, (users, witnesses) in ENGINES.items()
        if owed & users and not sealed & witnesses
    ]
    if launch.keep_engines:
        # Its model is one more, which need not fit beside those that stay.
        names.sort(key=lambda name: name != "training")
    return names


def open_engine(recipe: Recipe, name: str) -> None:
    """Open one of the recipe's engines, try it, close it. The prompts have to be sealed.

    Raises: ValueError that names the field, the model and what is wrong with it.
    """
    import torch

    # A run with the trial and one that is resumed without it must draw alike.
    state = torch.get_rng_state()
    try:
        with listening(lambda who, drawing: None):
            _open(recipe, name)
    finally:
        torch.set_rng_state(state)


def _open(recipe: Recipe, name: str) -> None:
    measures = recipe.measures
    match name:
        case "gsm8k":
            assert measures.gsm8k is not None
            thought_format = load_format(recipe.thought_format)
            accuracy.questions(measures.gsm8k, thought_format.strip_thought)
        case "judge":
            _refuse_mistaken_prompts(recipe, _all_prompts(recipe), recipe.judge, "judge")
            _try_judges(recipe, _some_prompts(recipe), recipe.judge, "judge")
        case "second_judge":
            assert measures.second_judge is not None
            test, judge = _ref(recipe).prompts("test"), measures.second_judge.judge
            _refuse_mistaken_prompts(recipe, test, judge, SECOND)
            _try_judges(recipe, _spread(test), judge, SECOND)
        case "sampling":
            with named("sampling", f"{recipe.sampling.type} {recipe.model.path}"):
                _try_sampling(recipe)
        case "training":
            _try_training(recipe)
        case _:
            raise AssertionError(name)


def title_of(judge: JudgeConfig) -> str:
    """A judge's type and model."""
    name = judge.title
    return name if judge.type in name.lower() else f"{judge.type} {name}"


def _ref(recipe: Recipe) -> StageRef:
    """Of the seed, which is sampled first."""
    index = 0 if recipe.warm_start is None else WARM_START
    return StageRef(recipe=recipe, stage="rollouts", arm=recipe.arms[0], index=index)


@contextmanager
def named(field: str, what: str) -> Iterator[None]:
    """Raises: ValueError for whatever is raised within, after the recipe's field and its value."""
    try:
        yield
    # Whatever a foreign model, a package or a user's own module raises on its first use.
    except Exception as error:
        reason = str(error)
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {(reason.splitlines() or [''])[0]}"
        raise ValueError(f"{field} ({what}) cannot be used: {reason}") from error


def _some_prompts(recipe: Recipe) -> list[Prompt]:
    """A few from all over, the shortest first; where nothing is trained all may be for the test."""
    ref = replace(_ref(recipe), index=WARM_START if recipe.first_prompt else 0)
    trains = recipe.first_prompt or recipe.iterations or recipe.prompts.test is None
    return _spread(ref.prompts("train" if trains else "test"))


def _spread(prompts: Sequence[Prompt]) -> list[Prompt]:
    some = prompts[:: max(len(prompts) // PROMPTS, 1)][:PROMPTS]
    return sorted(some, key=lambda prompt: sum(len(turn.content) for turn in prompt.messages))


def _all_prompts(recipe: Recipe) -> Iterator[Prompt]:
    """Those of the iterations, then those that are held out."""
    first = _ref(recipe)
    slices = (replace(first, index=index).prompts("train") for index in range(recipe.iterations))
    held_out = (first.prompts(kind) for kind in ("validation", "test"))
    return chain.from_iterable((*slices, *held_out))


def _refuse_mistaken_prompts(
    recipe: Recipe, prompts: Iterable[Prompt], judge: JudgeConfig, field: str
) -> None:
    """Raises: ValueError for the first that the judge could not score whatever the response."""
    for prompt in prompts:
        if (mistake := mistake_in(prompt, judge)) is not None:
            raise ValueError(
                f"{field} ({title_of(judge)}) cannot score a prompt: "
                f"{_ref(recipe).prompt_places()[prompt.prompt_id]}: {mistake}"
            )


def _try_sampling(recipe: Recipe) -> None:
    ref = _ref(recipe)
    policy = Policy.of(ref)
    if ref.grows:
        # Its tokens are not there yet, and without them it answers as any model does.
        policy = replace(policy, model=recipe.model.of_arm(ref.arm), thought_format=DIRECT)
    params = SamplingParams.of(recipe.sampling)
    params = replace(params, max_new_tokens=min(TOKENS, params.max_new_tokens))
    shortest = _some_prompts(recipe)[0]
    request = SampleRequest(
        prompt_id=shortest.prompt_id,
        messages=policy.thought_format.apply(shortest.messages),
        seeds=(policy.draw_seed(shortest.prompt_id, 0),),
    )
    with policy.executor(params) as executor:
        if recipe.sampling.free_to_try:
            # A prompt that is left out is the stage's affair; an engine that fails raises.
            list(executor.each([0], lambda _: [request]))


def judges_of(
    config: JudgeConfig, prompts: Sequence[Prompt], field: str
) -> Iterator[tuple[str, JudgeConfig, list[Prompt]]]:
    """Each judge of the recipe's `field`, with its own and those of the prompts that it would be
    shown."""
    if not config.panels:
        yield field, config, list(prompts)
        return
    left = list(prompts)
    # As in the judge itself a prompt goes to the first route that fits it.
    for i, route in enumerate(config.panels):
        mine = [prompt for prompt in left if route.fits(prompt)]
        left = [prompt for prompt in left if not route.fits(prompt)]
        for k, member in enumerate(route.members):
            judge = member.judge
            if judge.takes_workers:
                judge = judge.model_copy(update={"workers": config.pool})
            yield f"{field}.routes.{i}.members.{k}.judge", judge, mine


def _try_judges(recipe: Recipe, prompts: Sequence[Prompt], config: JudgeConfig, field: str) -> None:
    for own, judge, mine in judges_of(config, prompts, field):
        with named(own, title_of(judge)):
            _try_judge(recipe, judge, mine)


def _try_judge(recipe: Recipe, judge: JudgeConfig, prompts: Sequence[Prompt]) -> None:
    if isinstance(judge, LLMJudge):
        with open_model(judge.model_copy(update={"max_new_tokens": TOKENS}), None) as sampler:
            if judge.engine.free_to_try:
                request = SampleRequest(prompt_id="opening", messages=(GREETING,), seeds=(0,))
                for result in sampler.sample([request]):
                    one_prompt(result)
        return
    if not judge.free_to_try:
        with open_judge(judge):
            return
    with Cache() as cache, judging_executor(judge, cache, recipe.launch) as executor:
        refused = None
        for prompt in prompts:
            group = ResponseGroup(prompt=prompt, responses=RESPONSES)
            [(_, verdicts)] = executor.each([0], lambda _, group=group: [group])
            [answer] = verdicts.answers
            if isinstance(answer, Judgement):
                return
            refused = refused or answer
    if refused is not None:
        raise ValueError(
            f"it scores none of {len(prompts)} prompts of this run that were tried, the first "
            f"because: {refused.reason}"
        )


def _try_training(recipe: Recipe) -> None:
    from forethought.models.loading import pick_device
    from forethought.training.trial import try_training

    # What is kept for the run must not have been trained before.
    with no_model_cache():
        device = str(pick_device(recipe.model.device))
        try_training(recipe.model.source, recipe.training, device)
