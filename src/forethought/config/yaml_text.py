"""The one reader of YAML that others wrote: recipes, thought formats, prompts of judges.

A few lines of YAML can stand for more than any memory holds, since an alias repeats what it names
and may name aliases. What a text stands for is therefore counted before anything is made of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LONGEST = 256 * 1024
"""Bytes of a file."""
NODES = 20_000
"""Fields, items and values, those that aliases repeat counted each time."""
NUMBER = 100
"""Characters of a number."""
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(path: Path) -> Any:
    """The content of a file, of plain values alone.

    Raises: ValueError saying what is wrong, and in which line where that is known.
    """
    with path.open("rb") as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise ValueError(f"it has more than {LONGEST // 1024} KiB")
    return parse_yaml(content.decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """The same of a text, however long.

    Raises: ValueError as `read_yaml` does.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise ValueError(_at(error.problem_mark, error.problem)) from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """Stops where the text itself has too many nodes."""

    seen = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.seen += 1
        if self.seen > NODES:
            raise ValueError(f"it has more than {NODES:,} fields, items and values")
        return super().compose_node(parent, index)


def _weigh(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """Nodes that one stands for. Raises: ValueError if there are too many, or no end."""
    if node in known:
        weight = known[node]
        if weight is None:
            raise ValueError(_at(node.start_mark, "an anchor whose content has its own alias"))
        return weight
    if isinstance(node, yaml.ScalarNode):
        if node.tag in NUMBERS and len(node.value) > NUMBER:
            raise ValueError(_at(node.start_mark, f"a number of more than {NUMBER} characters"))
        return 1
    known[node] = None
    weight = 1
    for item in node.value:
        for part in item if isinstance(item, tuple) else (item,):
            weight += _weigh(part, known)
    if weight > NODES:
        raise ValueError(
            _at(
                node.start_mark,
                f"with its aliases this stands for more than {NODES:,} fields, items and values",
            )
        )
    known[node] = weight
    return weight


def _at(mark: Any, problem: str | None) -> str:
    if mark is None:
        return problem or "it cannot be read"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
