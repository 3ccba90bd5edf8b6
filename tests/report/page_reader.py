"""The page as a browser would read it, without a browser."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class PageReader(HTMLParser):
    """Elements with attributes, and text by element id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._id: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._id = dict(attrs).get("id")

    def handle_endtag(self, tag: str) -> None:
        self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self.texts[self._id] = self.texts.get(self._id, "") + data

    @property
    def charts(self) -> dict[str, Any]:
        return json.loads(self.texts["chart-data"])
