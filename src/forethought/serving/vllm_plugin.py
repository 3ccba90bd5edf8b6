"""Files that let `vllm serve` alone hide thoughts: a reasoning parser and a chat template.

The parser's file needs nothing of this package. What it splits by is this package's own source,
copied into it, so there is one splitter to keep right. vLLM hands an output's text to it, and it
gives the response as `content` and, only if it was written so, the thought as `reasoning`.

The chat template is the model's own behind a few lines that put the thought instruction in front of
the last user turn, as `ThoughtFormat.apply` does.

    name = write_plugin("runs/quickstart/policy", Path("thoughts.py"))
    write_chat_template("runs/quickstart/policy", Path("chat_template.jinja"))
    # vllm serve MODEL --reasoning-parser-plugin /…/thoughts.py --reasoning-parser NAME
    #     --chat-template chat_template.jinja

What only the endpoint of this package can do: take thoughts that a client sends back out of earlier
turns, make control tokens in messages harmless, give `stop`, `max_tokens` and a budget to the two
sides apart, draw again where no response came. And vLLM's other addresses, `/v1/completions` among
them, know no parser: they give raw outputs, so keep them from clients you do not trust.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType

from jinja2 import Environment, PackageLoader, StrictUndefined

from forethought.models import loading
from forethought.models.loading import Named, source_of
from forethought.storage.files import write_bytes
from forethought.thoughts import (
    FORMAT_FILE,
    ThoughtFormat,
    by_token,
    load_format,
    markers,
    splitter,
)
from forethought.types import Message, ParsedOutput, ParseStatus

SPLITTING = (markers, splitter, by_token)
"""All that splits an output, in an order in which it can be defined."""
INSTRUCTION = Path(__file__).parent / "templates" / "instruction.jinja"
"""What stands before a model's own chat template."""


def write_plugin(source: str | ThoughtFormat, target: Path, *, show_thoughts: bool = False) -> str:
    """Write the parser's file; returns the name that `--reasoning-parser` wants.

    `source` is a model folder with a thought format, or a format. With `show_thoughts` every client
    gets the thought as `reasoning`; else no client does, and none gets log-probabilities.

    Raises: ValueError if there is no format with thoughts, or the file cannot be written.
    """
    thought_format = format_of(source) if isinstance(source, str) else source
    if not thought_format.thinks:
        raise ValueError(
            f"thought_format: {thought_format.name!r} has no thoughts, so nothing is to hide; "
            "serve the model without a reasoning parser"
        )
    if target.suffix != ".py":
        raise ValueError(f"output: {target} must end with .py, or vLLM does not load it")
    name = "forethought_" + re.sub(r"\W+", "_", thought_format.name, flags=re.ASCII)
    environment = Environment(
        loader=PackageLoader("forethought.serving"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("vllm_plugin.py.jinja").render(
        name=name,
        show_thoughts=show_thoughts,
        types=[inspect.getsource(kind).rstrip() for kind in (ParseStatus, ParsedOutput)],
        splitting=[_body(module) for module in SPLITTING],
        **{
            field: ascii(value)
            for field, value in thought_format
            if field.startswith(("thought_", "response_", "markers_"))
        },
    )
    write_bytes(target, text.encode("utf-8"))
    return name


def _body(module: ModuleType) -> str:
    """The source of a module behind its imports."""
    source = inspect.getsource(module)
    imports = [
        node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return "\n".join(source.splitlines()[imports[-1].end_lineno :]).strip()


def write_chat_template(
    model: Named, target: Path, thought_format: ThoughtFormat | None = None
) -> None:
    """Write the model's chat template with the instruction of its format, or of the given one.

    Texts and lists of parts are both understood. Earlier turns stay as they are.

    Raises: ValueError if the model has no chat template, no format, or one without an instruction.
    """
    thought_format = thought_format or format_of(model)
    if thought_format.instruction is None:
        raise ValueError(
            f"thought_format: {thought_format.name!r} has no instruction, so the model's own chat "
            "template is right as it is"
        )
    template = loading.load_tokenizer(model).chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise ValueError(
                f"model: {source_of(model).path} has the chat templates {', '.join(template)} and "
                "none is named default; name one so"
            )
        template = template["default"]
    (turn,) = thought_format.apply([Message(role="user", content="")])
    head = f"{{%- set forethought_before = {turn.content!a} -%}}\n{INSTRUCTION.read_text()}"
    # The line break after the head's last block is dropped, and so the template's first is not.
    write_bytes(target, (head + template).encode("utf-8"))


def format_of(model: Named) -> ThoughtFormat:
    """The thought format beside a model's weights.

    Raises: ValueError if there is none.
    """
    file = Path(loading.resolve(model)) / FORMAT_FILE
    if not file.is_file():
        raise ValueError(
            f"model: {source_of(model).path} has no {FORMAT_FILE}, which forethought writes beside "
            "a policy's weights; give such a policy, or a thought format"
        )
    return load_format(str(file))
