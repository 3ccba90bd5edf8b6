"""Prompts: read from files, data sets or the microworld, deduplicated, filtered and split."""

from forethought.prompts.conversations import PromptRecord, prompt_id_of, prompt_of
from forethought.prompts.data_sets import dataset_records
from forethought.prompts.demonstrations import demonstrations_file, read_demonstrations
from forethought.prompts.files import file_records, text_records
from forethought.prompts.split import (
    Loaded,
    PromptSplit,
    Refuse,
    StripThought,
    load_prompts,
    source_digests,
    split_prompts,
)

__all__ = [
    "Loaded",
    "PromptRecord",
    "PromptSplit",
    "Refuse",
    "StripThought",
    "dataset_records",
    "demonstrations_file",
    "file_records",
    "load_prompts",
    "prompt_id_of",
    "prompt_of",
    "read_demonstrations",
    "source_digests",
    "split_prompts",
    "text_records",
]
