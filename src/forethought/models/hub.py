"""Whether the hub has what a recipe names, asked once and shortly, before anything is loaded."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

from forethought.models.loading import Named, resolve, source_of

TIMEOUT = 10.0
"""Seconds for an answer of the hub."""
CONFIG = "config.json"


class UnreachableError(ValueError):
    """The hub does not tell: there is no network, or it keeps the files from this user."""


def config_file(model: Named, *, field: str = "model") -> Path:
    """The `config.json` of a model's folder; of a hub model, fetched unless it is here already.

    Raises: UnreachableError if the hub does not tell; ValueError if there is no such model.
    """
    source = source_of(model)
    folder = Path(resolve(source, field=field))
    if folder.is_dir():
        return folder / CONFIG
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(source.path, CONFIG, revision=source.revision)
    if isinstance(cached, str):
        return Path(cached)
    refuse_unknown("model", source.path, source.revision, field=field)
    try:
        return Path(hf_hub_download(source.path, CONFIG, revision=source.revision))
    except (LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(source.path, field, error) from None
    except EntryNotFoundError:
        raise ValueError(
            f"{field}: {source.path} of the hub has no {CONFIG}, so transformers cannot load it; "
            "name another model"
        ) from None


def refuse_unknown(
    kind: Literal["model", "dataset"], name: str, revision: str | None = None, *, field: str
) -> None:
    """Raises: UnreachableError if the hub does not tell; ValueError if it has nothing of the
    name."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        _refuse_without_network()
        HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=TIMEOUT)
    except RevisionNotFoundError:
        raise ValueError(
            f"{field}: {name} of the hub has no revision {revision}; correct it"
        ) from None
    except GatedRepoError as error:
        raise _unreachable(name, field, error) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ValueError(
            f"{field}: the hub has no {kind} {name}, or keeps it from this user; correct the name, "
            "or log in (hf auth login)"
        ) from None
    # A client of its own for http, with errors of its own.
    except Exception as error:
        raise _unreachable(name, field, error) from None


def _unreachable(name: str, field: str, error: Exception) -> UnreachableError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UnreachableError(
        f"{field}: {name} is not on this machine, and the hub does not give it ({said})"
    )


def _refuse_without_network() -> None:
    """At once; the hub's own client tries for half a minute.

    Raises: OSError if the hub's name has no address and no proxy would know better.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if host and not getproxies():
        socket.getaddrinfo(host, None)
