"""What vLLM takes for its progress bar: it shows nothing and tells whoever listens."""

from __future__ import annotations

import io
from typing import Any

from tqdm import tqdm

from forethought.progress.under_way import Tally

HOW = "sampling with vLLM"


class OutputsBar(tqdm):
    """For `use_tqdm` of `LLM.generate`, which calls it like tqdm: for what it prepares and, with
    a `total`, for what it draws. It is updated by outputs that have ended.
    """

    def __init__(self, iterable: Any = None, **given: Any) -> None:
        super().__init__(iterable, **{**given, "file": io.StringIO(), "leave": False})
        self._tally = None
        if iterable is None and self.total:
            # One request per output: how many prompts they are of, vLLM does not know.
            self._tally = Tally(HOW, prompts=0, outputs=int(self.total))

    def update(self, n: float | None = 1) -> bool | None:
        """So many outputs more have ended."""
        shown = super().update(n)
        if self._tally is not None and (self._tally.due or self.n == self.total):
            self._tally.tell(done=int(self.n), tokens=0)
        return shown
