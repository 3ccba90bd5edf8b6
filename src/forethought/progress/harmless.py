"""Text that others wrote, before it reaches a terminal: it cannot drive it."""

from __future__ import annotations

import unicodedata


def harmless(text: str) -> str:
    """The text without control characters, but for new lines and tabs."""
    return "".join(
        character
        for character in text
        if character in "\n\t" or unicodedata.category(character) != "Cc"
    )
