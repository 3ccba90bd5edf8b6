"""The files of a model folder that a copy of the model takes along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

KINDS = (".json", ".model", ".txt", ".jinja", ".py", ".tiktoken", ".safetensors", ".bin")
"""Ends of names of what models, tokenizers and their code are kept in."""
TERMS = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
"""How the names of its terms begin, which go wherever it goes."""


def model_files(folder: Path) -> Iterator[Path]:
    """Regular files of the model's own kinds, by name.

    A link is followed within the folder, and into the blobs of a hub's cache, of which a snapshot
    consists; one that leads elsewhere would put a file of this machine into every checkpoint.
    """
    homes = [folder.resolve(), (folder.parent.parent / "blobs").resolve()]
    for path in sorted(folder.iterdir()):
        is_own = path.suffix in KINDS or path.name.upper().startswith(TERMS)
        inside = any(path.resolve().is_relative_to(home) for home in homes)
        if is_own and inside and path.is_file():
            yield path
