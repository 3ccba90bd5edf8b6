"""A folder that is written whole under another name and then gets its own; and its way to a hub."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar

from forethought.storage.files import sync_folder
from forethought.storage.remote_files import refuse_existing, write_folder

Target = TypeVar("Target", bound=Path | str)
"""A folder, or an address such as `s3://bucket/folder`."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `target` when the block ends well, and goes when it does not.

    Raises: ValueError if the target exists or its parent does not.
    """
    target = target.absolute()
    if target.exists():
        raise ValueError(f"target: {target} exists; name another folder, or remove it first")
    if not target.parent.is_dir():
        raise ValueError(f"target: {target.parent} is no folder; make it first")
    partial = target.with_name(f".{target.name}.partial")
    # What a killed export left.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(target.parent)


@contextmanager
def whole_target(target: Path | str) -> Iterator[Path]:
    """`whole_folder` for a path; for an address a folder of this machine that is copied there.

    At an address the card, `README.md`, is written last: without it the export is not whole.

    Raises: ValueError if the target exists or cannot be written.
    """
    if isinstance(target, Path):
        with whole_folder(target) as folder:
            yield folder
        return
    refuse_existing(target, "target")
    with TemporaryDirectory(prefix="forethought-export-") as temporary:
        yield Path(temporary)
        write_folder(Path(temporary), target, "target", last="README.md")


def check_push(repo: str) -> None:
    """Before anything is written: can this folder be pushed at all?

    Raises: ValueError if the name is not one of a hub's, or there is no token.
    """
    from huggingface_hub import get_token

    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f"push: {repo!r} is not a repository's name; give organisation/name")
    if get_token() is None:
        raise ValueError(
            "push: there is no token for the hub; run `hf auth login`, or set HF_TOKEN to a token "
            "that may write"
        )


def push(
    folder: Path, repo: str, *, kind: Literal["model", "dataset"], private: bool = True
) -> str:
    """Upload an exported folder; a new repository is private unless asked otherwise.

    Returns its address. Raises: ValueError if the hub refuses or cannot be reached; the folder
    stays as it is.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_push(repo)
    api = HfApi()
    try:
        address = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            commit_message="Export of forethought",
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise ValueError(
            f"push: {repo} was not pushed: {error}. {folder} is whole; once the hub can be reached "
            "and the token may write, push it again"
        ) from error
    return str(address)
