"""The options of `forethought serve`, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ModelWord = Annotated[
    str, typer.Argument(metavar="MODEL|RUN", help="A run, RUN/ARM/NUMBER, or a model folder")
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Commit, tag or branch of a hub model")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the model's own code (a run's recipe says)")
]
WeightsType = Annotated[
    Literal["bfloat16", "float32"] | None,
    typer.Option("--dtype", help="Number type of the weights; by default the run's, or bfloat16"),
]
Format = Annotated[
    str, typer.Option("--thought-format", help="Of a model that does not bring its own")
]
Budget = Annotated[
    int | None,
    typer.Option("--thought-budget", min=1, help="Tokens until the response is made to start"),
]
Upstream = Annotated[
    str | None, typer.Option("--upstream", help="Serve in front of this server, up to /v1")
]
UpstreamModel = Annotated[
    str | None, typer.Option("--upstream-model", help="The model's name there, if it has many")
]
UpstreamKeyEnv = Annotated[
    str | None, typer.Option("--upstream-key-env", help="Variable that holds the key for it")
]
UpstreamContinues = Annotated[
    bool,
    typer.Option("--upstream-continues", help="It knows continue_final_message (vLLM, SGLang)"),
]
UpstreamSplits = Annotated[
    bool,
    typer.Option("--upstream-splits", help="Its reasoning parser knows this policy's format"),
]
UpstreamBody = Annotated[
    str | None,
    typer.Option("--upstream-body", metavar="JSON", help="Fields for each request to it"),
]
Host = Annotated[str, typer.Option("--host")]
Port = Annotated[int | None, typer.Option("--port", help="A free one by default")]
ApiKeys = Annotated[
    Path | None, typer.Option("--api-keys", help="File of keys; none: open, on this machine")
]
Name = Annotated[
    str | None, typer.Option("--name", help="What clients call the model; its path by default")
]
Attempts = Annotated[
    int, typer.Option("--attempts", min=1, help="Outputs drawn until one has a response")
]
WithoutResponse = Annotated[
    Literal["error", "empty"], typer.Option("--without-response", help="What then")
]
Slots = Annotated[int, typer.Option("--slots", min=1, help="Answers made at a time")]
Queue = Annotated[int, typer.Option("--queue", min=0, help="Answers that may wait")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Of a response, whatever is asked")
]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0.1, help="Time of a request, waiting included")
]
ShutdownSeconds = Annotated[
    float, typer.Option("--shutdown-seconds", min=0.1, help="For running answers to end")
]
AllowThinkOff = Annotated[
    bool, typer.Option("--allow-think-off", help="Clients may ask for answers without a thought")
]
ThinkThreshold = Annotated[
    float | None,
    typer.Option(
        "--think-threshold", min=0, max=1, help="Of a hybrid policy: how likely a thought has to be"
    ),
]
HoldAnswers = Annotated[
    bool,
    typer.Option("--hold-answers", help="Streams, too, give a response when all of it is known"),
]
PrivateLog = Annotated[
    Path | None, typer.Option("--private-log", help="Keep answers with their thoughts here")
]
ShowThoughts = Annotated[
    bool, typer.Option("--show-thoughts", help="An open server shows thoughts on this machine")
]
