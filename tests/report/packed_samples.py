"""The page's samples read back in Python, as the browser reads them."""

import base64
import json
import zlib
from typing import Any

DECISION = ("arm", "iteration", "outcome", "chosen", "rejected", "margin")
NUMBERS = (
    "policy",
    "index",
    "status",
    "thought_tokens",
    "response_tokens",
    "score",
    "shaped",
    "attempts",
)


def read_cases(text: str) -> list[dict[str, Any]]:
    """Every prompt of `samples_json`, with its texts in place."""
    cases: list[dict[str, Any]] = []
    for run in json.loads(text)["runs"]:
        index = _unpacked(run["index"])
        numbers = iter(index["cases"])
        for count, packed in zip(index["counts"], run["pieces"], strict=True):
            piece = _unpacked(packed)
            assert len(piece["cases"]) == count
            for texts in piece["cases"]:
                cases.append({"run": run["name"], **_case(next(numbers), texts, piece["strings"])})
        assert next(numbers, None) is None
    return cases


def _unpacked(packed: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def _case(numbers: list[Any], texts: list[Any], strings: list[str]) -> dict[str, Any]:
    def read(place: int) -> str | None:
        return None if place < 0 else strings[place]

    kind, prompt, category, groups = numbers
    messages, reference, group_texts = texts
    return {
        "kind": kind,
        "prompt": prompt,
        "category": category,
        "messages": [(role, read(place)) for role, place in messages],
        "reference": read(reference),
        "groups": [
            {
                **dict(zip(DECISION, group[:-1], strict=True)),
                "unjudged": read(unjudged),
                "evidence": read(evidence),
                "outputs": [
                    {
                        **dict(zip(NUMBERS, output, strict=True)),
                        "thought": read(thought),
                        "text": read(text),
                    }
                    for output, (thought, text) in zip(group[-1], outputs, strict=True)
                ],
            }
            for group, (unjudged, evidence, outputs) in zip(groups, group_texts, strict=True)
        ],
    }
