"""Ends a response before a stop string, and holds back what could be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.thoughts import possible_start


class StopStrings:
    """Watches a response that arrives in chunks, and is the same for every way of cutting it.

    The response ends where the first stop string is complete; where two are complete with the same
    character, the one that began first counts. What stands before it stays as it is, white space
    too.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string would end every response"
        self._stops = tuple(stops)
        self._held = ""
        self.met = False

    def feed(self, text: str) -> str:
        """Take the next chunk; returns what is certain to stand before a stop string."""
        if not self._stops:
            return text
        text = self._held + text
        self._held = ""
        hits = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if hits:
            self.met = True
            return text[: min(hits)[1]]
        certain = len(text) - possible_start(text, self._stops)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """What was held back, once no more comes."""
        held, self._held = self._held, ""
        return held
