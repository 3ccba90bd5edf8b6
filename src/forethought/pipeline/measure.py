"""Measures by command: of a run's policy, of any model folder, of a file of outputs.

A policy is named as in runs/policies.py. A measure of a run's policy is the very stage that the
run's recipe would ask for: it is sealed in the run directory, and the report shows it. Anything
else is sealed in a folder of its own, `--output`. Both resume: the same command goes on where it
was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forethought.config import (
    EvaluatePart,
    MeasuresConfig,
    ModelConfig,
    explain,
)
from forethought.config.recipe_files import dump, load_part, load_run
from forethought.models import loading
from forethought.pipeline.on_files import read_lines, responses_of
from forethought.progress.reporter import Reporter
from forethought.runs.layout import StageRef
from forethought.runs.lock import run_lock
from forethought.runs.policies import find_run_policy, weights_and_format
from forethought.runs.schedule import OWN_QUESTIONS
from forethought.stages.measured import measure_policy
from forethought.stages.measures.base import Subject, settings_identity
from forethought.stages.measures.win_rate import Contender, WinRateSetup, compare
from forethought.stages.policies.sampled_policy import Policy
from forethought.stages.table import STAGES, run_stage
from forethought.storage.files import content_hash, sha256_file
from forethought.storage.open_stage import Stage, refuse_changed_config
from forethought.storage.sealed_stage import Count, StageError, read_manifest
from forethought.thoughts import DIRECT
from forethought.types import Answer, Completion, ParsedOutput, ParseStatus, Prompt
from forethought.workers.threads import use_threads

VERSION = 1
"""Of a measurement in a folder of its own; moves when its content changes meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """What an `evaluate` command was given.

    Example: `MeasureRequest(words=("judge.type=verifier",), output=Path("out"), prompts=None)`
    """

    words: tuple[str, ...]
    """Recipe files and overrides."""
    output: Path | None
    prompts: Path | None


def evaluate_policy(
    name: str, policy: str, request: MeasureRequest, reporter: Reporter
) -> dict[str, Count]:
    """Measure one policy; returns the sealed counts.

    Raises: ValueError for whatever is wrong with policy, settings, prompts or output.
    """
    found = find_run_policy(policy)
    if found is not None and request.output is None and request.prompts is None:
        return _in_its_run(name, found, request, reporter)
    part = _part(name, request, found)
    measured = _policy(policy, found, part)
    own = name in OWN_QUESTIONS
    judge = None if own else part.judge
    prompts = () if own else _prompts([policy], request)
    config = dict(part.measures)[name]
    identity = settings_identity(name, config, judge, [measured]) | {"weights": _weights(measured)}

    def work(stage: Stage) -> dict[str, Count]:
        subject = Subject(
            policy=measured,
            judge=judge,
            cache=part.cache,
            account=str(stage.folder),
            prompts=prompts,
        )
        return measure_policy(name, stage, subject, config, reporter)

    identity["prompts"] = _named(prompts)
    return in_a_folder(name, request.output, identity, work)


def compare_two(
    first: str, second: str, request: MeasureRequest, reporter: Reporter
) -> dict[str, Count]:
    """Win rates of one policy, or file of outputs, against another; returns the sealed counts.

    Raises: ValueError for whatever is wrong with policies, settings, prompts or output.
    """
    names = (first, second)
    runs = [find_run_policy(name) for name in names]
    part = _part("win_rate", request, next((run for run in runs if run is not None), None))
    judge = part.judge
    if judge is None:
        raise ValueError(
            "judge: a win rate needs one; give a judge section, such as judge.type=reward_model "
            "judge.path=…"
        )
    prompts = _prompts(names, request)
    sides = [
        _contender(name, found, part, prompts) for name, found in zip(names, runs, strict=True)
    ]
    config = part.measures.win_rate
    assert config is not None, "_part fills the section"
    policies = [side.policy for side in sides if side.policy is not None]
    identity = settings_identity("win_rate", config, judge, policies)
    identity["sides"] = [
        _weights(side.policy) if side.policy is not None else sha256_file(Path(side.name))
        for side in sides
    ]

    def work(stage: Stage) -> dict[str, Count]:
        match = WinRateSetup(
            first=sides[0],
            second=sides[1],
            judge=judge,
            cache=part.cache,
            account=str(stage.folder),
            prompts=prompts,
            launch=part.launch,
        )
        return compare(stage, match, config, reporter)

    identity["prompts"] = _named(prompts)
    return in_a_folder("win_rate", request.output, identity, work)


def _in_its_run(
    name: str, found: StageRef, request: MeasureRequest, reporter: Reporter
) -> dict[str, Count]:
    recipe = load_run(found.recipe.run, request.words)
    measures = _with_default(recipe.measures, name)
    recipe = recipe.model_copy(update={"measures": measures})
    ref = StageRef(recipe=recipe, stage=name, arm=found.arm, index=found.index)
    use_threads(recipe.launch.threads)
    with run_lock(recipe.run):
        own = _by_setting(ref)
        run_stage(own, reporter)
    if own != ref:
        reporter.say(
            f"kept in {own.folder}: its settings are not those of {ref.folder}, which the report "
            "shows"
        )
    return read_manifest(own.folder).counts


def _by_setting(ref: StageRef) -> StageRef:
    """The measure's own place, or one beside it where that holds another setting's result."""
    kind = STAGES[ref.stage]
    config = kind.configure(ref)
    try:
        refuse_changed_config(ref.folder, version=kind.version, config=config)
    except StageError:
        return replace(ref, setting=content_hash([kind.version, config])[:8])
    return ref


def _with_default(measures: MeasuresConfig, name: str) -> MeasuresConfig:
    """The sections with this one in it, by its defaults where it has any for all fields."""
    if dict(measures)[name] is not None:
        return measures
    try:
        return MeasuresConfig.model_validate({**measures.model_dump(), name: {}})
    except ValidationError as error:
        raise ValueError(explain(error, MeasuresConfig, "measures")) from error


def _part(name: str, request: MeasureRequest, found: StageRef | None) -> EvaluatePart:
    """The settings: the run's, where a run's policy is measured, and the arguments over them."""
    below = None if found is None else dump(found.recipe)
    part = load_part(EvaluatePart, request.words, below)
    use_threads(part.launch.threads)
    return part.model_copy(update={"measures": _with_default(part.measures, name)})


def _policy(word: str, found: StageRef | None, part: EvaluatePart) -> Policy:
    given = part.model or ModelConfig(path=word)
    source, thought_format = weights_and_format(given.at(word).source, found, part.thought_format)
    template = given.template or ({} if found is None else found.policy.template)
    return Policy(
        name=word,
        model=given.at(source.path).model_copy(update={"template": template}),
        thought_format=thought_format,
        sampling=part.sampling,
        seed_words=(part.seed, "evaluate"),
        launch=part.launch,
    )


def _contender(
    word: str, found: StageRef | None, part: EvaluatePart, prompts: Sequence[Prompt]
) -> Contender:
    if not _is_file_of_outputs(word):
        return Contender(name=word, policy=_policy(word, found, part), answers=None)
    wanted = {prompt.prompt_id for prompt in prompts}
    answers = tuple(output for output in read_outputs(Path(word)) if output.prompt_id in wanted)
    return Contender(name=word, policy=None, answers=answers)


def read_outputs(path: Path) -> list[Answer]:
    """Answers of a JSONL file with a prompt and `responses`, or `outputs` as `sample` writes them.

    Raises: ValueError for a bad line, or prompts that stand in two lines.
    """
    answers: dict[str, list[Answer]] = {}
    for line in read_lines(path, DIRECT):
        prompt_id = line.prompt.prompt_id
        if prompt_id in answers:
            raise ValueError(f"{line.where}: its prompt stands in an earlier line, too; keep one")
        answers[prompt_id] = [
            _given(prompt_id, index, text) for index, text in enumerate(responses_of(line))
        ]
    return [answer for each in answers.values() for answer in each]


def _given(prompt_id: str, index: int, response: str | None) -> Answer:
    """An answer of which only the response is known."""
    status = ParseStatus.NO_RESPONSE if response is None else ParseStatus.COMPLETE
    return Answer(
        prompt_id=prompt_id,
        sample_index=index,
        attempts=1,
        completion=Completion(text=response or "", token_ids=(), finish_reason="stop"),
        parsed=ParsedOutput(
            status=status,
            thought=None,
            response=response,
            response_offset=None if response is None else 0,
        ),
        thought_tokens=0,
        response_tokens=0,
        score=None,
    )


def _is_file_of_outputs(word: str) -> bool:
    return Path(word).is_file()


def _prompts(words: Sequence[str], request: MeasureRequest) -> tuple[Prompt, ...]:
    """`--prompts`, else the test prompts of the first run named, else those of the outputs."""
    if request.prompts is not None:
        return _file_prompts(request.prompts)
    for word in words:
        found = find_run_policy(word)
        if found is not None and found.recipe.prompts.test is not None:
            return tuple(found.prompts("test"))
    for word in words:
        if _is_file_of_outputs(word):
            return _file_prompts(Path(word))
    raise ValueError("--prompts: give a JSONL file with the prompts to answer")


def _file_prompts(path: Path) -> tuple[Prompt, ...]:
    prompts = {line.prompt.prompt_id: line.prompt for line in read_lines(path, DIRECT)}
    return tuple(prompts.values())


def _weights(policy: Policy) -> Any:
    """What names a policy's weights: the content of its files, wherever the folder lies."""
    named = loading.identity(policy.model.source)
    if "revision" in named:
        return named
    return named.get("files", policy.model.path)


def _named(prompts: Sequence[Prompt]) -> str:
    return content_hash([prompt.prompt_id for prompt in prompts])


def in_a_folder(
    name: str,
    output: Path | None,
    identity: dict[str, Any],
    work: Callable[[Stage], dict[str, Count]],
) -> dict[str, Count]:
    """Do a measurement in a folder of its own, or find it done there; returns the sealed counts.

    `identity` names the work besides `name`.

    Raises: ValueError if there is no folder, or it holds something else.
    """
    if output is None:
        raise ValueError("--output: name a folder for the answers and the figures")
    if output.is_file() or (output.is_dir() and _is_foreign(output)):
        raise ValueError(f"--output: {output} holds something else; name a new folder")
    with run_lock(output):
        stage = Stage(output, name=name, version=VERSION, config=identity)
        stage.complete(lambda: work(stage))
    return read_manifest(output).counts


def _is_foreign(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()} - {"lock"}
    return bool(names) and "intent.json" not in names
