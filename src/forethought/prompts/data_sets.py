"""Records of a Hugging Face data set: of the hub, of a folder of files, or saved by save_to_disk.

`split` means the same for all of them: a name, a slice such as `train[:100]` or `test[50%:]`, or
several joined by `+`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from forethought.config import DatasetPrompts
from forethought.models.hub import refuse_unknown
from forethought.prompts.conversations import PromptRecord, columns_wanted

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_SPLIT = "train"
"""Of `DatasetPrompts.split`."""


def dataset_records(source: DatasetPrompts) -> Iterator[PromptRecord]:
    """The records of a data set's split.

    Raises: ValueError naming data set, subset and split.
    """
    loaded = _saved(source) if is_saved(folder_of(source)) else _loaded(source)
    wanted = columns_wanted(source.columns, loaded.column_names, source.name)
    for number, row in enumerate(loaded.select_columns(wanted), start=1):
        assert isinstance(row, Mapping), type(row)
        yield PromptRecord(f"{source.name}, {source.split}, row {number}", row)


def folder_of(source: DatasetPrompts) -> Path:
    """Where it is, if it is a folder."""
    return Path(source.name).expanduser()


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote it: load_dataset reads everything else."""
    return any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))


def refuse_unknown_name(source: DatasetPrompts, field: str) -> None:
    """Find out whether there is such a folder, or such a data set of the hub.

    Raises: UnreachableError if the hub does not tell from here; ValueError if there is none.
    """
    folder = folder_of(source)
    if folder.is_dir():
        return
    _refuse_missing_folder(source, field)
    # What was prepared here before is read without a network.
    if not _prepared_here(source.name):
        refuse_unknown("dataset", source.name, field=field)


def _refuse_missing_folder(source: DatasetPrompts, field: str) -> None:
    if source.name.startswith((".", "/", "~")) and not folder_of(source).is_dir():
        raise ValueError(f"{field}: folder {source.name} does not exist; correct `name`")


def _prepared_here(name: str) -> bool:
    """Whether the library keeps a data set of this name that it has prepared before."""
    from huggingface_hub import constants

    def plain(text: str) -> str:
        # Its folders have underscores for slashes and before capitals.
        return text.replace("/", "").replace("_", "").lower()

    kept = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    return kept.is_dir() and any(plain(path.name) == plain(name) for path in kept.iterdir())


def _loaded(source: DatasetPrompts) -> Dataset:
    from datasets import Dataset, load_dataset

    folder = folder_of(source)
    _refuse_missing_folder(source, "prompts")
    name = str(folder) if folder.is_dir() else source.name
    try:
        loaded = load_dataset(name, source.subset, split=source.split)
    # The library's many ways to fail share no base class.
    except Exception as error:
        raise _unreadable(source, error) from error
    assert isinstance(loaded, Dataset), type(loaded)
    return loaded


def _saved(source: DatasetPrompts) -> Dataset:
    from datasets import DatasetDict, load_from_disk

    if source.subset is not None:
        raise ValueError(
            f"prompts: {source.name} was written by save_to_disk and has no subsets; leave "
            f"`subset` ({source.subset}) out"
        )
    try:
        loaded = load_from_disk(str(folder_of(source)))
    # The library's many ways to fail share no base class.
    except Exception as error:
        raise _unreadable(source, error) from error
    if isinstance(loaded, DatasetDict):
        return _of_splits(source, {str(name): each for name, each in loaded.items()})
    # One that was never a split of another has no name, and is what the default means.
    return _of_splits(source, {str(loaded.split or DEFAULT_SPLIT): loaded})


def _of_splits(source: DatasetPrompts, splits: Mapping[str, Dataset]) -> Dataset:
    from datasets import ReadInstruction, concatenate_datasets

    if source.split == "all":
        return concatenate_datasets(list(splits.values()))
    names = [part.partition("[")[0].strip() for part in source.split.split("+")]
    for name in names:
        if name not in splits:
            raise ValueError(
                f"prompts: {source.name} has splits {list(splits)}, no {name!r}; correct `split`"
            )
    try:
        instruction = ReadInstruction.from_spec(source.split)
        parts = instruction.to_absolute({name: len(each) for name, each in splits.items()})
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"prompts: {source.name}, split {source.split!r} cannot be read ({error}); give a "
            "name, or a slice such as train[:100] or train[50%:]"
        ) from error
    chosen = [splits[part.splitname].select(range(part.from_, part.to)) for part in parts]
    return concatenate_datasets(chosen)


def _unreadable(source: DatasetPrompts, error: Exception) -> ValueError:
    return ValueError(
        f"prompts: data set {source.name}, subset {source.subset}, split {source.split} could "
        f"not be loaded: {type(error).__name__}: {error}; correct these, or without a network "
        "give a folder that save_to_disk wrote"
    )
