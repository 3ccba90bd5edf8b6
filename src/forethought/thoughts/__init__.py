"""Thought formats: what a model is asked, and how its thought is told from its response.

formats.py: a format and the built-in ones; splitter.py: the state machine that splits an output;
markers.py: what counts as a marker; by_token.py: markers that are tokens.
"""

from forethought.thoughts.formats import (
    COMMON_TAGS,
    DIRECT,
    FORMAT_FILE,
    GENERIC,
    HYBRID_SENTENCE,
    PLAIN,
    SPECIFIC,
    TAGS,
    THOUGHT_FORMATS,
    TOKENS,
    ThoughtFormat,
    load_format,
    save_format,
)
from forethought.thoughts.markers import Markers, Surroundings, possible_start
from forethought.thoughts.splitter import Delta, Splitter, first_response_token

__all__ = [
    "COMMON_TAGS",
    "DIRECT",
    "FORMAT_FILE",
    "GENERIC",
    "HYBRID_SENTENCE",
    "PLAIN",
    "SPECIFIC",
    "TAGS",
    "THOUGHT_FORMATS",
    "TOKENS",
    "Delta",
    "Markers",
    "Splitter",
    "Surroundings",
    "ThoughtFormat",
    "first_response_token",
    "load_format",
    "possible_start",
    "save_format",
]
