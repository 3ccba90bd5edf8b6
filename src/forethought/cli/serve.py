"""`forethought serve | chat | vllm-plugin | new-key`."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from forethought.cli.errors import clear_errors
from forethought.cli.serve_options import (
    AllowThinkOff,
    ApiKeys,
    Attempts,
    Budget,
    Format,
    HoldAnswers,
    Host,
    MaxTokens,
    ModelWord,
    Name,
    Port,
    PrivateLog,
    Queue,
    Revision,
    Seconds,
    ShowThoughts,
    ShutdownSeconds,
    Slots,
    ThinkThreshold,
    TrustRemoteCode,
    Upstream,
    UpstreamBody,
    UpstreamContinues,
    UpstreamKeyEnv,
    UpstreamModel,
    UpstreamSplits,
    WeightsType,
    WithoutResponse,
)
from forethought.progress.reporter import Reporter

if TYPE_CHECKING:
    from forethought.config import ModelConfig, ModelSource
    from forethought.config.base import DType
    from forethought.runs.layout import StageRef
    from forethought.serving.backends.base import Backend
    from forethought.thoughts import ThoughtFormat

OF_A_SERVER = ("model", "key_env", "continues", "splits", "body")
"""What `--upstream-…` says of a server."""


def serve(
    model: ModelWord,
    upstream: Upstream = None,
    upstream_model: UpstreamModel = None,
    upstream_key_env: UpstreamKeyEnv = None,
    upstream_continues: UpstreamContinues = False,
    upstream_splits: UpstreamSplits = False,
    upstream_body: UpstreamBody = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    api_keys: ApiKeys = None,
    name: Name = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    dtype: WeightsType = None,
    thought_format: Format = "direct",
    thought_budget: Budget = None,
    attempts: Attempts = 3,
    without_response: WithoutResponse = "error",
    slots: Slots = 16,
    queue: Queue = 64,
    max_tokens: MaxTokens = None,
    seconds: Seconds = 600.0,
    shutdown_seconds: ShutdownSeconds = 30.0,
    allow_think_off: AllowThinkOff = False,
    hold_answers: HoldAnswers = False,
    think_threshold: ThinkThreshold = None,
    private_log: PrivateLog = None,
    show_thoughts: ShowThoughts = False,
) -> None:
    """Serve a policy with its thought hidden: /v1/chat/completions, /v1/models, a page at /."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.serving.answerer import SplittingAnswerer
        from forethought.serving.backends.base import AnswerSettings
        from forethought.serving.http.chat_page import chat_page
        from forethought.serving.http.server import run_server
        from forethought.serving.http.settings import ServerSettings

        source, own_format = _policy(model, revision, trust_remote_code, thought_format)
        _refuse_threshold(think_threshold, own_format, upstream)
        hybrid = own_format.hybrid and upstream is None
        offers_direct = hybrid or _offers_direct(own_format, allow_think_off)
        called, may_show = name or model, show_thoughts or api_keys is not None
        settings = ServerSettings(
            **_draws(model) | {"model": called, "slots": slots, "queue": queue},
            max_tokens=max_tokens,
            seconds=seconds,
            shutdown_seconds=shutdown_seconds,
            api_keys=api_keys,
            allow_think_off=allow_think_off or not own_format.thinks or hybrid,
            hybrid=hybrid,
            show_thoughts=show_thoughts,
            private_log=private_log,
        )
        answers = AnswerSettings(
            thought_budget=thought_budget,
            attempts=attempts,
            without_response=without_response,
            hold_answers=hold_answers,
            think_threshold=think_threshold,
        )
        its = (upstream_model, upstream_key_env, upstream_continues, upstream_splits, upstream_body)
        of_a_server: dict[str, Any] = dict(zip(OF_A_SERVER, its, strict=True))
        _refuse_what_is_of_the_other(upstream, of_a_server, dtype)
        held = _model(model, source, dtype)
        here = partial(_embedded, slots=slots, name=called)
        write = partial(_at_server, upstream, **of_a_server) if upstream else here
        backend, split_format = write(held, own_format)
        run_server(
            SplittingAnswerer(backend, split_format, answers),
            backend,
            host=host,
            port=port,
            settings=settings,
            reporter=reporter,
            page=chat_page(called, may_show_thoughts=may_show, offers_direct=offers_direct),
        )


def chat(
    word: Annotated[
        str, typer.Argument(metavar="MODEL|RUN|URL", help="A local model, or a server's address")
    ],
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    dtype: WeightsType = None,
    thought_format: Format = "direct",
    thought_budget: Budget = None,
    think_threshold: ThinkThreshold = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model's name at the server")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option("--key-env", help="Variable that holds the server's key")
    ] = None,
    history: Annotated[
        Path | None, typer.Option("--history", help="Keep what you type in this file")
    ] = None,
) -> None:
    """Talk to a policy in the terminal; /help shows the commands."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.chat_client.client import key_of
        from forethought.serving.answerer import SplittingAnswerer
        from forethought.serving.backends.base import AnswerSettings
        from forethought.serving.terminal.chat import chat as talk
        from forethought.serving.terminal.chat_models import LocalModel, ServedModel

        if word.startswith(("http://", "https://")):
            key = key_of(key_env, field="--key-env")
            talk(ServedModel(word, api_key=key, model=model), reporter.console, history=history)
            return
        source, own_format = _policy(word, revision, trust_remote_code, thought_format)
        _refuse_threshold(think_threshold, own_format, None)
        held = _model(word, source, dtype)
        backend, split_format = _embedded(held, own_format, slots=1, name=word)
        answers = AnswerSettings(
            thought_budget=thought_budget,
            attempts=3,
            without_response="error",
            think_threshold=think_threshold,
        )
        local = LocalModel(
            SplittingAnswerer(backend, split_format, answers),
            name=word,
            can_answer_directly=own_format.thinks and own_format.can_answer_directly,
            hybrid=own_format.hybrid,
            temperature=0.8,
            top_p=0.95,
            max_tokens=None,
            close=backend.close,
        )
        talk(local, reporter.console, history=history)


def vllm_plugin(
    model: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="Whose format is to be hidden")],
    target: Annotated[Path, typer.Argument(metavar="FILE.py", help="The plugin to write")],
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    chat_template: Annotated[
        Path | None,
        typer.Option("--chat-template", help="Also write a template with the thought instruction"),
    ] = None,
    show_thoughts: Annotated[
        bool, typer.Option("--show-thoughts", help="Give every client the thought as `reasoning`")
    ] = False,
) -> None:
    """Write a reasoning parser, so that `vllm serve` alone hides the thought."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        source, own_format = _policy(model, revision, trust_remote_code, "direct")

        from forethought.models.loading import find_adapter
        from forethought.sampling.vllm_engine import lora_limit
        from forethought.serving.vllm_plugin import write_chat_template, write_plugin

        parser = write_plugin(_by_token(source, own_format), target, show_thoughts=show_thoughts)
        words = f"--reasoning-parser-plugin {target.resolve()} --reasoning-parser {parser}"
        if chat_template is not None:
            write_chat_template(source, chat_template, own_format)
            words += f" --chat-template {chat_template.resolve()}"
        if source.revision is not None:
            words = f"--revision {source.revision} {words}"
        if source.trust_remote_code:
            words = f"--trust-remote-code {words}"
        served = source.path
        if (adapter := find_adapter(source)) is not None:
            served = adapter.base.path
            words += f" --enable-lora --max-lora-rank {lora_limit(adapter.rank)}"
            words += f" --lora-modules policy={adapter.folder.resolve()}"
        reporter.say(f"vllm serve {served} {words}")


def new_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who gets it")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file of keys to add it to")],
    reasoning: Annotated[
        bool, typer.Option("--reasoning", help="The key may see thoughts")
    ] = False,
) -> None:
    """Make an API key: it is shown once, the file keeps its hash."""
    reporter = Reporter(Console())
    with clear_errors(reporter):
        from forethought.serving.http.keys import new_key as make

        made = make(name, ["reasoning"] if reasoning else [])
        if file.is_file() and f"\n{name} " in f"\n{file.read_text(encoding='utf-8')}":
            raise ValueError(f"{file} has a key of {name}; give the new one another name")
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as keys:
            keys.write(f"{made.line}\n")
        typer.echo(made.secret)


def _policy(
    word: str, revision: str | None, trust_remote_code: bool, otherwise: str
) -> tuple[ModelSource, ThoughtFormat]:
    """Weights and format; of a run, its last thinking policy.

    Raises: ValueError if the word names no policy.
    """
    from forethought.config import ModelSource
    from forethought.runs.policies import weights_and_format

    found = _run_policy(word)
    if found is not None and (revision is not None or trust_remote_code):
        raise ValueError(
            f"{word} is a policy of a run, whose recipe says how its model is loaded; leave out "
            "--revision and --trust-remote-code"
        )
    given = ModelSource(path=word, revision=revision, trust_remote_code=trust_remote_code)
    return weights_and_format(given, found, otherwise)


def _offers_direct(own_format: ThoughtFormat, allow_think_off: bool) -> bool:
    """Whether clients are offered to turn thinking off.

    Raises: ValueError if it is to be allowed and cannot be done.
    """
    if allow_think_off and not own_format.can_answer_directly:
        raise ValueError(
            f"--allow-think-off: a policy of the format {own_format.name!r} thinks without being "
            "asked to, so no client can ask it not to; leave the option out"
        )
    return allow_think_off and own_format.thinks


def _refuse_threshold(
    threshold: float | None, own_format: ThoughtFormat, upstream: str | None
) -> None:
    """Raises: ValueError if there is a threshold and nothing that it could be on."""
    if threshold is not None and (not own_format.hybrid or upstream is not None):
        raise ValueError(
            f"--think-threshold: {threshold:g} is on the probability that a hybrid policy thinks, "
            "and such a policy has to be served here, without --upstream; leave it out"
        )


def _run_policy(word: str) -> StageRef | None:
    """The policy of a run that is named; of a run alone, the last of its thought arm, or of its
    hybrid arm where it has no other that thinks.

    Raises: ValueError if the word names no policy of the run.
    """
    from forethought.config.recipe_files import load_run
    from forethought.runs.policies import find_run_policy, is_run

    if not is_run(Path(word)):
        return find_run_policy(word)
    arms = load_run(Path(word)).arms
    hybrid = "hybrid" in arms and "thought" not in arms
    return find_run_policy(f"{word}/{'hybrid' if hybrid else 'thought'}")


def _draws(word: str) -> dict[str, Any]:
    """Temperature and top_p where a client names none: of a run's policy, as it was evaluated."""
    found = _run_policy(word)
    if found is None:
        return {}
    draw = found.recipe.evaluation
    return {"temperature": draw.temperature, "top_p": draw.top_p}


def _model(word: str, source: ModelSource, dtype: DType | None) -> ModelConfig:
    """How the weights are held here: of a run's policy in the number type it was sampled in."""
    from forethought.config import ModelConfig

    model = ModelConfig.of(source)
    found = _run_policy(word)
    own = model.dtype if found is None else found.recipe.model.dtype
    template = _template(word, source)
    return model.model_copy(update={"template": template, "dtype": dtype or own})


def _embedded(
    model: ModelConfig, own_format: ThoughtFormat, *, slots: int, name: str
) -> tuple[Backend, ThoughtFormat]:
    """The backend, and the format by which its outputs are split."""
    from forethought.serving.backends.embedded import EmbeddedBackend

    split_format = _by_token(model.source, own_format)
    backend = EmbeddedBackend(model, slots=slots, name=name, markers=own_format.markers)
    return backend, split_format


def _template(word: str, source: ModelSource) -> dict[str, Any]:
    """What the policy's chat template is given, here or at a server."""
    from forethought.config import ModelConfig
    from forethought.models.rendering import template_variables

    found = _run_policy(word)
    own = {} if found is None else found.policy.template
    return template_variables(ModelConfig.of(source).model_copy(update={"template": own}))


def _by_token(source: ModelSource, own_format: ThoughtFormat) -> ThoughtFormat:
    """The format, split by token where its markers are tokens of this model.

    Raises: ValueError if they must be and are not.
    """
    from forethought.models.loading import load_tokenizer
    from forethought.models.marker_tokens import split_by_token

    if not own_format.thinks:
        return own_format
    return split_by_token(own_format, load_tokenizer(source, chat=False))


def _at_server(
    address: str,
    policy: ModelConfig,
    own_format: ThoughtFormat,
    *,
    model: str | None,
    key_env: str | None,
    continues: bool,
    splits: bool,
    body: str | None,
) -> tuple[Backend, ThoughtFormat]:
    """The backend, and the format by which its outputs are split: by token only where it says
    their ids.

    Raises: ValueError if the server cannot be used so.
    """
    from forethought.models.loading import load_tokenizer
    from forethought.serving.backends.upstream import (
        UpstreamBackend,
        check_continues,
        sends_token_ids,
        upstream_model,
    )

    extra_body = _json_object(body)
    if policy.template:
        extra_body = {"chat_template_kwargs": policy.template} | extra_body
    there = upstream_model(address, model=model, api_key_env=key_env)
    if continues:
        check_continues(address, model=there, api_key_env=key_env, extra_body=extra_body)
    split_format, by_token = _by_token(policy.source, own_format), False
    if split_format.markers_are_tokens and not splits:
        by_token = sends_token_ids(address, model=there, api_key_env=key_env, extra_body=extra_body)
        if not by_token and own_format.markers_are_tokens:
            raise ValueError(
                f"--upstream: {address} gives no token ids (return_token_ids, as vLLM knows it), "
                f"and by nothing else can outputs of the format {own_format.name!r} be split; "
                "serve the policy with vLLM, or here, without --upstream"
            )
    backend = UpstreamBackend(
        address,
        model=there,
        api_key_env=key_env,
        can_continue=continues,
        text_is_response=splits,
        extra_body=extra_body,
        by_token=load_tokenizer(policy.source) if by_token else None,
        markers=own_format.markers,
    )
    return backend, split_format if by_token else own_format


def _refuse_what_is_of_the_other(
    upstream: str | None, of_a_server: dict[str, Any], dtype: DType | None
) -> None:
    """Raises: ValueError for an option about a server where there is none, or the other way."""
    if upstream is not None and dtype is not None:
        raise ValueError(f"--dtype: the server at {upstream} loads the weights; leave it out")
    for option, value in of_a_server.items():
        if value and upstream is None:
            raise ValueError(
                f"--upstream-{option.replace('_', '-')}: it is about a server; give its address, "
                "too (--upstream http://localhost:8001/v1), or leave this out"
            )


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"--upstream-body: {text} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f'--upstream-body: {text} is no object; give one such as {{"top_k": -1}}')
    return value
