"""A server of its own for each policy: started with the policy's folder, ended with the stage.

A server holds the weights it was started with. So that every iteration samples its own policy,
`sampling.command` says how to start one, such as `vllm serve {model} --port {port}`; it is started
on a free port when the sampler is opened and ended, with all its processes, when it is left.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import httpx

from forethought.chat_client.client import get_models
from forethought.config import ModelConfig, OpenAISampling
from forethought.decoding.request import SamplingParams
from forethought.models import loading
from forethought.sampling.openai import OpenAISampler
from forethought.storage.reply_cache import Cache
from forethought.types import SampledPrompt, SampleRequest, Unsampled

POLL = 0.2
LAST = 600
"""Characters of a failed server's output that stand in the error."""
PATIENCE = 15.0
"""Seconds a server has to end by itself."""


class LaunchedSampler:
    """Samples at a server of its own; the arguments are those of `OpenAISampler`."""

    def __init__(
        self,
        config: OpenAISampling,
        model: ModelConfig | None,
        *,
        params: SamplingParams,
        cache: Cache | None,
        token_ids: bool,
    ) -> None:
        """Raises: ValueError if the server does not start or cannot be used."""
        if model is None:
            raise ValueError("sampling.command serves a model; give model.path")
        assert config.command is not None
        with ExitStack() as opening:
            # A server is not told of revisions: it gets the files.
            if model.revision is not None:
                model = model.at(loading.local_folder(model.source))
            server = opening.enter_context(
                LaunchedServer(config.command, config.base_url, model.path, seconds=config.timeout)
            )
            there = config.model_copy(update={"base_url": server.base_url})
            self._sampler = opening.enter_context(
                OpenAISampler(there, model, params=params, cache=cache, token_ids=token_ids)
            )
            self._open = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """As `OpenAISampler` does."""
        return self._sampler.sample(requests)


class LaunchedServer:
    """Example: `LaunchedServer("vllm serve {model} --port {port}", "http://localhost:{port}/v1",
    "runs/a/policy", seconds=600)`"""

    def __init__(self, command: str, base_url: str, model: str, *, seconds: float) -> None:
        """Start the server and wait until it lists its models.

        Raises: ValueError if it cannot be started, ends, or does not answer in so many seconds.
        """
        port = _free_port()
        self.base_url = base_url.replace("{port}", str(port))
        source = loading.resolve(model)
        words = [
            word.replace("{model}", source).replace("{port}", str(port))
            for word in shlex.split(command)
        ]
        # Open as long as the server is.
        self._output = tempfile.NamedTemporaryFile(prefix="forethought-server-")  # noqa: SIM115
        try:
            # A session of its own: the server's children end with it, and Ctrl-C is ours alone.
            self._process = subprocess.Popen(
                words, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            self._output.close()
            raise ValueError(
                f"sampling.command: {words[0]} cannot be started: {error.strerror}; give the "
                "command that starts a server, such as vllm serve {model} --port {port}"
            ) from None
        try:
            self._wait(seconds)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                raise ValueError(
                    f"sampling.command ended with status {status} before it served:\n{self._said()}"
                )
            with suppress(httpx.HTTPError):
                if get_models(self.base_url, None, 5).is_success:
                    return
            time.sleep(POLL)
        raise ValueError(
            f"sampling.command: {self.base_url} did not answer in {seconds:g} s, which is "
            f"sampling.timeout; the server said:\n{self._said()}"
        )

    def _said(self) -> str:
        return Path(self._output.name).read_text(encoding="utf-8", errors="replace")[-LAST:]

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
