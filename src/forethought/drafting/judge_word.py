"""The judge that one word on the command line means."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from forethought.config.judges import GRADERS
from forethought.config.prompts import URL

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A user's own verifier, as package.module:function."""
CHOICES = (
    f"a verifier ({', '.join(GRADERS)}, or package.module:function), armorm, a reward model's "
    "folder or hub name, or the address of a chat model's server such as http://localhost:8000/v1"
)


def judge_section(word: str) -> dict[str, Any]:
    """The `judge` section of a recipe that is meant by a verifier's name, a model or an address.

    Raises: ValueError if it is none of these.
    """
    if word in GRADERS or FUNCTION.fullmatch(word):
        return {"type": "verifier", "function": word}
    if word == "armorm":
        return {"type": "armorm"}
    if URL.match(word):
        return {"type": "rating", "engine": {"type": "openai", "base_url": word}}
    if "/" in word or Path(word).is_dir():
        kind = "armorm" if "armorm" in word.lower() else "reward_model"
        return {"type": kind, "path": word}
    meant = get_close_matches(word, (*GRADERS, "armorm"), n=1)
    hint = f"did you mean {meant[0]}? Else give" if meant else "give"
    raise ValueError(f"--judge: {word} is neither a verifier nor a folder here; {hint} {CHOICES}")
