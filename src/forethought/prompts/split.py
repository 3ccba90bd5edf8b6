"""Load prompts from files, data sets or the microworld, deduplicate and split them.

The paper takes 5,000 fresh prompts for every iteration and 1,500 for validation. Here training
prompts are ordered by a hash of (seed, prompt_id), and iteration i takes the i-th slice of that
order: slices are disjoint, and depend neither on the order of a file nor on how many follow. The
paper does not speak of overlaps; here a prompt that is held out is removed from training and
counted. Near-duplicates are not looked for.

A prompt that could not be sampled (`refuse`) is left out alone, listed with its place, before
anything is set aside or sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import assert_never

from forethought.config import (
    DatasetPrompts,
    FilePrompts,
    HeldOut,
    MicroworldPrompts,
    PromptsConfig,
    PromptSource,
)
from forethought.prompts.conversations import (
    StripThought,
    columns_wanted,
    prompt_id_of,
    prompt_of,
)
from forethought.prompts.data_sets import dataset_records, folder_of
from forethought.prompts.files import file_records, stem
from forethought.storage.files import content_hash, sha256_file
from forethought.types import LeftOut, Message, Prompt

Refuse = Callable[[Prompt], str | None]
"""Why a prompt cannot be sampled, `None` where it can."""

MICROWORLD_SEED = 0
"""A fixed world: the run's seed chooses among its prompts, so that runs share their test set."""
SMALL_FILE = 2**20
"""Bytes of a file of a data set's folder that is hashed whole; of others name and size tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The distinct prompts of some sources.

    Example: `Loaded(prompts=[Prompt(…)], places={"9f2c…": "p.jsonl, line 3"}, duplicates=1,
    left_out=[])`
    """

    prompts: list[Prompt]
    """In the order of the sources, the first of equal ones."""
    places: dict[str, str]
    """Where the record of each stands, by prompt id."""
    duplicates: int
    """Records left out because an earlier record has the same messages."""
    left_out: list[LeftOut]
    """Prompts that were refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSplit:
    """Every prompt of a run in its place; no prompt stands in two.

    Example: `PromptSplit(train=(Prompt(…), Prompt(…)), validation=(Prompt(…),), test=(),
    duplicates=1, overlap=0,
    left_out=(), places={"9f2c…": "p.jsonl, line 3"})`
    """

    train: tuple[Prompt, ...]
    """All that may be trained on, in the order in which iterations take their slices."""
    validation: tuple[Prompt, ...]
    test: tuple[Prompt, ...]
    duplicates: int
    """Records left out because an earlier record of the same sources has the same messages."""
    overlap: int
    """Prompts left out of validation or training because a held-out set has them already."""
    left_out: tuple[LeftOut, ...]
    """Prompts that were refused, and why."""
    places: dict[str, str] = field(compare=False)
    """Where the record of each prompt stands, by prompt id."""


def split_prompts(
    config: PromptsConfig,
    *,
    seed: int,
    strip_thought: StripThought,
    refuse: Refuse = lambda prompt: None,
) -> PromptSplit:
    """Load all sources, set the held-out prompts aside, put the others in order.

    Held-out sets with sources of their own come first, then those taken out of the training
    sources, test before validation; what one set has, a later one cannot have.

    Raises: ValueError if a source cannot be read or has fewer prompts than are to be held out.
    """
    training = load_prompts(config.train, strip_thought, refuse)
    loaded = [training]
    held = {"test": config.test, "validation": config.validation}
    sets: dict[str, tuple[Prompt, ...]] = {"test": (), "validation": ()}
    used: set[str] = set()
    overlap = 0
    for name, wanted in held.items():
        if wanted is None or not wanted.sources:
            continue
        own = load_prompts(wanted.sources, strip_thought, refuse)
        free = [prompt for prompt in own.prompts if prompt.prompt_id not in used]
        loaded.append(own)
        overlap += len(own.prompts) - len(free)
        sets[name] = _hold_out(free, wanted, name, seed, own.left_out)
        used |= {prompt.prompt_id for prompt in sets[name]}
    pool = [prompt for prompt in training.prompts if prompt.prompt_id not in used]
    overlap += len(training.prompts) - len(pool)
    for name, wanted in held.items():
        if wanted is None or wanted.sources:
            continue
        sets[name] = _hold_out(pool, wanted, name, seed, training.left_out)
        taken = {prompt.prompt_id for prompt in sets[name]}
        pool = [prompt for prompt in pool if prompt.prompt_id not in taken]
    # Of a prompt of two sets the last place named is the one it was taken from first.
    places = {key: place for each in reversed(loaded) for key, place in each.places.items()}
    return PromptSplit(
        train=tuple(_ordered(pool, seed, "train")),
        validation=sets["validation"],
        test=sets["test"],
        duplicates=sum(each.duplicates for each in loaded),
        overlap=overlap,
        left_out=tuple(
            {omission.prompt_id: omission for each in loaded for omission in each.left_out}.values()
        ),
        places=places,
    )


def load_prompts(
    sources: Sequence[PromptSource],
    strip_thought: StripThought,
    refuse: Refuse = lambda prompt: None,
) -> Loaded:
    """The distinct prompts of the sources that are not refused.

    Raises: ValueError if a source is missing, empty, holds a record that is no prompt, or only
    prompts that are refused.
    """
    distinct: dict[str, Prompt] = {}
    places: dict[str, str] = {}
    records = 0
    for source in sources:
        for place, prompt in _load(source, strip_thought):
            records += 1
            if prompt.prompt_id not in distinct:
                distinct[prompt.prompt_id], places[prompt.prompt_id] = prompt, place
    reasons = {
        key: reason for key, prompt in distinct.items() if (reason := refuse(prompt)) is not None
    }
    left_out = [
        LeftOut(prompt_id=key, where=places[key], reason=reason) for key, reason in reasons.items()
    ]
    if len(left_out) == len(distinct):
        raise ValueError(
            f"prompts: none of {len(distinct)} prompts can be sampled; the first, "
            f"{left_out[0].where}: {left_out[0].reason}"
        )
    return Loaded(
        prompts=[prompt for key, prompt in distinct.items() if key not in reasons],
        places=places,
        duplicates=records - len(distinct),
        left_out=left_out,
    )


def source_digests(config: PromptsConfig) -> dict[str, str]:
    """What names the content of each source on this machine's disk, by its path as given.

    Sources at an address, on the hub or of the microworld have none, nor has what is not there.
    """
    held = [held_out for held_out in (config.validation, config.test) if held_out is not None]
    sources = [*config.train, *(source for held_out in held for source in held_out.sources)]
    named = ((_shown(source), _digest(source)) for source in sources)
    return {name: digest for name, digest in named if digest is not None}


def _shown(source: PromptSource) -> str:
    match source:
        case FilePrompts():
            return str(source.path)
        case DatasetPrompts():
            return source.name
        case MicroworldPrompts():
            return "microworld"


def _digest(source: PromptSource) -> str | None:
    match source:
        case FilePrompts(path=Path() as path) if path.expanduser().is_file():
            return sha256_file(path.expanduser())
        case DatasetPrompts() if (folder := folder_of(source)).is_dir():
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            return content_hash([[str(path.relative_to(folder)), *_glance(path)] for path in files])
        case _:
            return None


def _glance(path: Path) -> tuple[int, str]:
    size = path.stat().st_size
    return size, sha256_file(path) if size <= SMALL_FILE else ""


def _hold_out(
    free: Sequence[Prompt], wanted: HeldOut, name: str, seed: int, left_out: Sequence[LeftOut]
) -> tuple[Prompt, ...]:
    if wanted.count > len(free):
        origin = "its sources hold" if wanted.sources else "the training sources have left"
        gone = ""
        if left_out:
            gone = f" ({len(left_out)} are left out; {left_out[0].where}: {left_out[0].reason})"
        raise ValueError(
            f"prompts.{name}.count asks for {wanted.count} prompts, but {origin} {len(free)} "
            f"distinct ones{gone}; lower the count or add to prompts.{name}.sources"
        )
    return tuple(_ordered(free, seed, name)[: wanted.count])


def _ordered(prompts: Iterable[Prompt], seed: int, purpose: str) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: content_hash([seed, purpose, prompt.prompt_id]))


def _load(source: PromptSource, strip_thought: StripThought) -> Iterator[tuple[str, Prompt]]:
    """Each prompt with its place."""
    match source:
        case MicroworldPrompts():
            yield from _microworld(source)
            return
        case FilePrompts():
            path = source.path.expanduser() if isinstance(source.path, Path) else source.path
            name, place = source.source or stem(path), str(path)
            records = file_records(path, source.columns)
        case DatasetPrompts():
            name, place = source.source or source.name, source.name
            records = dataset_records(source)
        case _:
            assert_never(source)
    seen = set[str]()
    for record in islice(records, source.limit):
        seen.update(record.row)
        yield record.where, prompt_of(record, source.columns, name, strip_thought)
    if not seen:
        raise ValueError(f"prompts: {place} holds no records; give a source with prompts")
    # A record may lack a category or a reference; a column that all lack is misnamed.
    columns_wanted(source.columns, seen, place)


def _microworld(source: MicroworldPrompts) -> Iterator[tuple[str, Prompt]]:
    from forethought.microworld.tasks import generate

    for number, task in enumerate(generate(source.split, source.count, MICROWORLD_SEED), start=1):
        messages = (Message(role="user", content=task.query),)
        prompt = Prompt(
            prompt_id=prompt_id_of(messages),
            messages=messages,
            category=task.category,
            source="microworld",
            reference=task.reference,
        )
        yield f"microworld {source.split}, task {number}", prompt
