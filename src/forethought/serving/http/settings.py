"""How a server behaves: the limits that keep it steady, and who may see what."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from forethought.config import ConfigModel


class ServerSettings(ConfigModel):
    """Settings of a server.

    Example: `ServerSettings(model="microworld", slots=16)`
    """

    model: str = Field(min_length=1)
    """Name that clients call the model by."""
    slots: int = Field(default=16, ge=1)
    """Answers that are made at the same time."""
    queue: int = Field(default=64, ge=0)
    """Answers that may wait for a slot; a request beyond them is refused (429)."""
    connections: int = Field(default=800, ge=1)
    """Open connections at most; one beyond them is closed at once. Each takes a file descriptor,
    and another one at an upstream while it is answered."""
    answers: int = Field(default=8, ge=1)
    """Answers that one request may ask for (`n`)."""
    seconds: float = Field(default=600.0, gt=0)
    """A request's time, waiting included."""
    write_seconds: float = Field(default=30.0, gt=0)
    """A client that takes nothing for so long is cut off."""
    read_seconds: float = Field(default=30.0, gt=0)
    """A request's headers, and then its body, must be there within this time."""
    shutdown_seconds: float = Field(default=30.0, gt=0)
    """Running answers may go on for so long after SIGTERM or Ctrl-C."""
    body_bytes: int = Field(default=2 * 1024 * 1024, ge=1)
    """Size of a request's body at most."""
    messages: int = Field(default=1000, ge=1)
    """Turns of a conversation at most."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a response at most, whatever the client asks."""
    temperature: float = Field(default=1.0, ge=0, le=2)
    """Where the client names none."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Where the client names none."""
    api_keys: Path | None = None
    """File of keys (keys.py); without one the server is open, and only on this machine."""
    allow_think_off: bool = False
    """Clients may ask for an answer without a thought, which no format can vouch to have none."""
    hybrid: bool = False
    """The policy decides whether it thinks, and clients may in its place."""
    show_thoughts: bool = False
    """An open server shows thoughts to everybody on this machine."""
    private_log: Path | None = None
    """File that keeps every answer with its thought, for the operator alone."""
