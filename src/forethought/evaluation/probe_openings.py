"""Does the response depend on the thought? The openings of a probe, and the habits of thoughts.

The paper does not ask. Later work found that thoughts can become decoration (START, arXiv
2603.20799), so the probe keeps everything but the thought: the same prompt, the same format, the
same seed, and a response written after

- `own`: the thought the policy wrote for this prompt;
- `none`: no thought, only the format's markers;
- `other`: the thought it wrote for another prompt;
- `half`: the first half of its own thought, cut between words.

All four are regenerated, so that `own` differs from the others in nothing but the thought.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from forethought.thoughts import Markers, Surroundings, ThoughtFormat
from forethought.types import Answer, ParseStatus

Variant = Literal["own", "none", "other", "half"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
SHORTEST_DRAFT = 3
"""Words. A shorter response stands in a thought by chance."""
FORMAT_PHRASES = ("user query", "thought process", "internal thoughts", "final response")
"""Words of the built-in instructions that a thought about its subject has no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What stands before a response, with the thought taken out.

    Example: `Frame(before="Here is my thought process: ", thought="2 + 3 is 5.",
    after="\\nHere is my response:")`
    """

    before: str
    thought: str
    after: str

    def opening(self, variant: Variant, other: str) -> str:
        """The text before the response; `other` is the other prompt's thought."""
        thought = {"own": self.thought, "none": "", "other": other, "half": half(self.thought)}
        return self.before + thought[variant] + self.after


def frame(prefix: str, thought: str) -> Frame:
    """Take the thought out of what stood before the response.

    Raises: ValueError if it is not in there.
    """
    place = prefix.find(thought)
    if place < 0:
        raise ValueError(f"the thought {thought!r:.80} is not in {prefix!r:.80}")
    return Frame(before=prefix[:place], thought=thought, after=prefix[place + len(thought) :])


def half(thought: str) -> str:
    """The first half of its words, rounded down, with the white space between them.

    A fenced block that is cut is closed: in it, the response marker would not count.
    """
    words = list(re.finditer(r"\S+", thought))
    kept = len(words) // 2
    first = thought[: words[kept - 1].end()] if kept else ""
    return f"{first}\n```\n" if Surroundings().behind(f"{first}\n").fenced else first


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What a policy's thoughts are like; each list has one entry per output it is defined for.

    Example: `Habits(draft_copied=[True], mentions_format=[False], empty=[False], runaway=[False])`
    """

    draft_copied: list[bool]
    """Whether the thought holds the whole response word for word; of responses of three words or
    more."""
    mentions_format: list[bool]
    """Whether it speaks of the format: a marker, or words of the instruction."""
    empty: list[bool]
    """Whether an output that has a response has no thought before it."""
    runaway: list[bool]
    """Whether the token limit came before any response; of all outputs."""


def habits(answers: Sequence[Answer], thought_format: ThoughtFormat) -> Habits:
    """Habits of the thoughts in these outputs, each the first that was drawn for its prompt."""
    phrases = [_words(phrase) for phrase in FORMAT_PHRASES]
    markers = Markers(thought_format.markers)
    found = Habits(draft_copied=[], mentions_format=[], empty=[], runaway=[])
    for answer in answers:
        parsed = answer.parsed
        found.runaway.append(
            parsed.status is ParseStatus.NO_RESPONSE and answer.completion.finish_reason == "length"
        )
        if parsed.response is None or parsed.thought is None:
            continue
        found.empty.append(not parsed.thought)
        thought, response = _words(parsed.thought), _words(parsed.response)
        if len(response) >= SHORTEST_DRAFT:
            found.draft_copied.append(_holds(thought, response))
        found.mentions_format.append(
            markers.named_in(parsed.thought) or any(_holds(thought, phrase) for phrase in phrases)
        )
    return found


def _words(text: str) -> list[str]:
    """Lower-case words without punctuation, so that a full stop does not hide a copy."""
    return re.findall(r"\w+", text.lower())


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    """Whether `part` stands in `words` in one piece."""
    joined = f" {' '.join(words)} "
    return f" {' '.join(part)} " in joined
