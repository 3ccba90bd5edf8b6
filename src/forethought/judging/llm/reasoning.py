"""A judge's reasoning, told from what it says: a verdict counts only where it is said.

Models that think mark it in their own ways: `<think>…</think>` and `<thinking>`, `<thought>`,
`<reasoning>` alike, `[THINK]…[/THINK]`, `◁think▷…◁/think▷`, `<|START_THINKING|>…`, Gemma's
`<|channel>thought…<channel|>`, and the channels of harmony, of which only `final` is said. The
opening mark may have stood in the prompt: then all up to the closing one is reasoning.
"""

from __future__ import annotations

import re

NAMES = r"(?:seed:)?(?:think|thinking|thought|reasoning)"
MARKS = re.compile(
    rf"""
      (?P<open>  <{NAMES}> | \[think(?:ing)?\]  | ◁think▷  | <[|｜]start_thinking[|｜]>
               | <[|｜]begin_of_thought[|｜]> | <[|｜]channel>thought\b )
    | (?P<close> </{NAMES}> | \[/think(?:ing)?\] | ◁/think▷ | <[|｜]end_thinking[|｜]>
               | <[|｜]end_of_thought[|｜]> | <channel[|｜]> )
    """,
    re.VERBOSE | re.IGNORECASE,
)
HARMONY = re.compile(r"<\|channel\|>(?P<channel>[^<]*+)(?:<\|constrain\|>[^<]*+)?<\|message\|>")
END_OF_MESSAGE = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
FINAL = "final"
BARE_START = re.compile(r"\s*analysis(?=\S)(?!:)")
BARE_FINAL = "assistantfinal"
"""Harmony of which a tokenizer has left out the control tokens."""


def without_reasoning(text: str) -> tuple[str, bool]:
    """The text without its reasoning, and whether all reasoning ends.

    Where an opening mark stood in the prompt, all up to the closing one is reasoning. Where a
    closing mark is missing, the text ends before the opening one.
    """
    if HARMONY.search(text) is not None:
        return _final_channel(text)
    if BARE_START.match(text) is not None and BARE_FINAL in text:
        return text.rpartition(BARE_FINAL)[2], True
    kept: list[str] = []
    opened: str | None = None
    place = 0
    for mark in MARKS.finditer(text):
        kind = _kind(mark.group())
        if opened is None:
            kept.append(text[place : mark.start()])
            if mark["open"] is not None:
                opened = kind
            else:
                kept.clear()
        elif mark["close"] is not None and kind == opened:
            opened = None
        place = mark.end()
    if opened is None:
        kept.append(text[place:])
    return "".join(kept), opened is None


def _kind(mark: str) -> str:
    """What an opening mark and its closing one have in common."""
    word = re.sub(r"[^a-z]|start|begin|end|of", "", mark.lower())
    return "channel" if word.startswith("channel") else word


def _final_channel(text: str) -> tuple[str, bool]:
    """What harmony's last `final` message says; without one the reasoning has no end."""
    said, ended = "", False
    for header in HARMONY.finditer(text):
        if header["channel"].split()[:1] == [FINAL]:
            end = END_OF_MESSAGE.search(text, header.end())
            said = text[header.end() : len(text) if end is None else end.start()]
            ended = True
    return said, ended
