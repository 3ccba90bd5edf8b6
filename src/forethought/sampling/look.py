"""Whether an engine can be had here, found out without loading a model or paying for a call."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from forethought.chat_client.client import checked_address
from forethought.chat_client.retrying import reach
from forethought.config import EngineConfig, ModelConfig, SamplingConfig
from forethought.config.engines import OpenAIEngine, OpenAISampling, ScriptedEngine, VllmEngine
from forethought.models.hub import UnreachableError, config_file
from forethought.sampling.scripted import read_script


def look_at_engine(
    engine: SamplingConfig | EngineConfig, model: ModelConfig | None, *, field: str = "model"
) -> Iterator[str]:
    """What the engine lacks on this machine: a package, a program, a server, the hub's files.

    `field` is where the recipe names the `model` that it loads.

    Raises: ValueError for what would be wrong on any machine.
    """
    match engine:
        case VllmEngine() if find_spec("vllm") is None:
            yield "vllm is not installed; pip install vllm, or use type: transformers"
        case OpenAISampling(command=str(command)):
            program = (shlex.split(command) or [""])[0]
            if shutil.which(program) is None:
                yield (
                    f"sampling.command: there is no program {program!r}; install it, or name "
                    "another"
                )
        case OpenAIEngine():
            yield from look_at_server(engine)
        case ScriptedEngine():
            read_script(engine.path)
        case _:
            pass
    if model is not None:
        try:
            config_file(model.source, field=field)
        except UnreachableError as error:
            yield str(error)


def look_at_server(engine: OpenAIEngine) -> Iterator[str]:
    """Why the server cannot be used now, if it cannot.

    Raises: ValueError if its address is none.
    """
    checked_address(engine.base_url)
    try:
        reach(engine)
    except ValueError as error:
        yield str(error)
