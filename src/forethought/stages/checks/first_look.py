"""What a recipe names, looked at before any work, without loading a model.

`forethought plan` does this, and so does a run before its first stage. Once there are prompts a run
tries all engines with their models (open_engines.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from forethought.config import (
    DatasetPrompts,
    FilePrompts,
    JudgeConfig,
    OpenAIEngine,
    PromptSource,
    Recipe,
    VerifierJudge,
)
from forethought.judging.describe import refuse_missing_models
from forethought.judging.look import look_at_judge
from forethought.models.hub import UnreachableError
from forethought.prompts.data_sets import refuse_unknown_name
from forethought.runs.layout import WARM_START, StageRef
from forethought.runs.schedule import stage_refs
from forethought.sampling.look import look_at_engine, look_at_server
from forethought.stages.checks.open_engines import SECOND, judges_of, named, owed_engines, title_of
from forethought.stages.measures import accuracy, alpaca_eval, arena_hard
from forethought.stages.table import kind_of
from forethought.storage.remote_files import missing_package
from forethought.thoughts import PLAIN, load_format
from forethought.workers.cluster import NO_RAY


def look_first(recipe: Recipe) -> list[str]:
    """Look for all that the recipe names and a stage still needs: files, functions, models of the
    right kind, servers, packages.

    Returns: what is not there now and may be elsewhere or later, one sentence each: servers,
    packages, the hub.

    Raises: ValueError for the first thing that is wrong with the recipe itself.
    """
    every = list(stage_refs(recipe))
    owed = [ref for ref in every if not ref.sealed]
    _refuse_missing_files(recipe, owed)
    lacking = list(_look_at_sources(recipe, owed))
    for name in owed_engines(every):
        lacking += _look_at(recipe, name)
    second = recipe.measures.second_judge
    pools = (recipe.sampling.pool, recipe.judge.pool, second.judge.pool if second else None)
    if owed and (recipe.launch.type == "ray" or any(pools)) and find_spec("ray") is None:
        lacking.append(NO_RAY)
    return lacking


def _refuse_missing_files(recipe: Recipe, owed: Sequence[StageRef]) -> None:
    """Raises: ValueError naming the first that is not there or cannot be read."""
    if owed and {"thought", "hybrid"} & set(recipe.arms):
        _refuse_thoughtless_format(recipe)
    first = {(ref.stage, ref.arm, ref.index == WARM_START): ref for ref in reversed(owed)}
    for ref in reversed(first.values()):
        kind_of(ref).configure(ref)
    for field, source in _sources(recipe, owed):
        path = source.path if isinstance(source, FilePrompts) else None
        if isinstance(path, Path) and not path.is_file():
            raise ValueError(f"{field}.path: {path} does not exist; correct it")
    stages, second = {ref.stage for ref in owed}, recipe.measures.second_judge
    if stages & {"judgements", "selection", "evaluation"}:
        refuse_missing_models(recipe.judge)
    if "second_judge" in stages and second is not None:
        refuse_missing_models(second.judge, SECOND)


def _refuse_thoughtless_format(recipe: Recipe) -> None:
    if "hybrid" in recipe.arms:
        load_format(recipe.thought_format).as_hybrid()
    if not load_format(recipe.thought_format).thinks:
        raise ValueError(
            f"thought_format: {recipe.thought_format} has no thoughts, and the thought arm needs "
            "them; give it response_starts_after, the marker before a response, or leave that arm "
            "out (arms: [direct])"
        )
    if load_format(recipe.thought_format).markers_are_tokens and recipe.training.lora is not None:
        raise ValueError(
            f"thought_format: the markers of {recipe.thought_format} are new tokens, and LoRA does "
            "not train the rows that they add to the embedding; train all weights (training.lora: "
            "null), or take a format whose markers are words (generic, specific)"
        )


def _sources(recipe: Recipe, owed: Iterable[StageRef]) -> Iterator[tuple[str, PromptSource]]:
    """Sources of prompts that a stage has still to read, each after its place in the recipe."""
    prompts, gsm8k = recipe.prompts, recipe.measures.gsm8k
    lists: dict[str, tuple[PromptSource, ...]] = {}
    stages = {ref.stage for ref in owed}
    if "prompts" in stages:
        lists["prompts.train"] = prompts.train
        lists["prompts.validation.sources"] = prompts.validation.sources
        lists["prompts.test.sources"] = prompts.test.sources if prompts.test else ()
    if "gsm8k" in stages and gsm8k is not None:
        lists["measures.gsm8k.sources"] = gsm8k.sources
    for field, sources in lists.items():
        yield from ((f"{field}.{index}", source) for index, source in enumerate(sources))


def _look_at_sources(recipe: Recipe, owed: Iterable[StageRef]) -> Iterator[str]:
    for field, source in _sources(recipe, owed):
        match source:
            case DatasetPrompts():
                try:
                    refuse_unknown_name(source, f"{field}.name")
                except UnreachableError as error:
                    yield str(error)
            case FilePrompts(path=str(url)):
                if (missing := missing_package(url, f"{field}.path")) is not None:
                    yield missing
            case _:
                pass


def _look_at(recipe: Recipe, name: str) -> Iterator[str]:
    """What one of the recipe's engines lacks here."""
    measures = recipe.measures
    match name:
        case "gsm8k":
            assert measures.gsm8k is not None
            verifier = VerifierJudge(function=measures.gsm8k.verifier)
            yield from _saying("measures.gsm8k.verifier", verifier.title, look_at_judge(verifier))
            if not any(isinstance(source, DatasetPrompts) for source in measures.gsm8k.sources):
                # Others take a while, and are read when the engines are tried.
                accuracy.questions(measures.gsm8k, PLAIN.strip_thought)
        case "alpaca_eval":
            assert measures.alpaca_eval is not None
            alpaca_eval.read_files(measures.alpaca_eval)
            yield from _server("measures.alpaca_eval.annotator", measures.alpaca_eval.annotator)
        case "arena_hard":
            assert measures.arena_hard is not None
            arena_hard.read_files(measures.arena_hard)
            yield from _server("measures.arena_hard.judge", measures.arena_hard.judge)
        case "judge":
            yield from _look_at_judges(recipe.judge, "judge")
        case "second_judge":
            assert measures.second_judge is not None
            yield from _look_at_judges(measures.second_judge.judge, SECOND)
        case "sampling":
            what = f"{recipe.sampling.type} {recipe.model.path}"
            yield from _saying("sampling", what, look_at_engine(recipe.sampling, recipe.model))
        case _:
            pass


def _look_at_judges(config: JudgeConfig, field: str) -> Iterator[str]:
    for own, judge, _ in judges_of(config, (), field):
        yield from _saying(own, title_of(judge), look_at_judge(judge))


def _server(field: str, engine: OpenAIEngine) -> Iterator[str]:
    return _saying(field, engine.model or engine.base_url, look_at_server(engine))


def _saying(field: str, what: str, reasons: Iterator[str]) -> Iterator[str]:
    """Reasons with the field that they are about.

    Raises: ValueError that names it, too.
    """
    with named(field, what):
        found = list(reasons)
    yield from (f"{field} ({what}) cannot be used: {reason}" for reason in found)
