"""The number that a worked answer ends on.

Looked for in this order; the first of them that is there decides:

1. `####` with a number directly after it (a heading such as `#### Step 2` has none);
2. the last `\\boxed{…}` that holds a number: what stands after its last `=`. Several different
   numbers, or a calculation that is not worked out, name no answer;
3. the last `answer is` or `answer:` with a number anywhere after it: the number directly after, or
   the result if it begins a calculation `… = …`; where words come first ("Answer: She has 3 boxes
   …, which gives 15 apples."), the last number of the text;
4. the last number of the text.

"Directly" allows markup, currency, `x =` and words such as "about". Thousands separators, currency,
percent signs and units do not count; LaTeX spellings are those of latex_numbers.py.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

from forethought.judging.verifier.latex_numbers import plain_numbers

MAX_DIGITS = 400
"""A longer run of digits is a stuck model's, and Python refuses to read it from 4,300 on."""
MAX_POWER = 30

DIGITS = r"\d{1,3}(?:,\d{3})+(?![\d])|\d+"
NUMBER = re.compile(
    rf"""
    (?<![A-Za-z_\d^])(?<!\d\.)(?<!\^\{{)  # not the 2 of CO2 or m^2, nor the rest of a longer number
    (?P<sign>(?<![\w)\]}}])[-−])?          # the sign of -5; in 10-5 and (3)-5 it is an operation
    (?:[$€£¥₹]\s?(?P<late>[-−])?)?
    (?P<whole>{DIGITS}|(?<![\w.])(?=\.\d))
    (?:\.(?P<decimals>\d+))?
    (?:[eE](?P<exponent>[+-]?\d{{1,2}})(?!\w))?
    (?:\^\{{?(?P<power>\d{{1,2}})(?!\d)\}}?)?
    (?:(?:[ ]+(?P<part>\d+))?/(?P<over>(?:{DIGITS})(?:\.\d+)?))?
    """,
    re.VERBOSE,
)
BOXED = re.compile(r"\\f?boxed\s*(?:\{|(?=\d))|[{}]")
ANSWER = re.compile(r"answer\s*(?:is\b|:)", re.IGNORECASE)
HEADING = re.compile(r"####")
DIRECTLY = re.compile(
    r"""
    (?:[\s*_`:({\[$€£¥₹"'“‘=~<>-]
      |\b(?:about|approximately|around|exactly|just|only|simply|therefore|thus|so|then|now
          |equal\ to|equals|a\ total\ of|a|the|final|number|total|value|USD|EUR|GBP|Rs\.?)\b
      |(?<![A-Za-z])[A-Za-z]\s*=)*+
    """,
    re.VERBOSE | re.IGNORECASE,
)
UNIT = r"(?:\s*+[A-Za-z%°{}]++){0,3}+[\s)\]]*+"
TERM = re.compile(rf"{UNIT}[+\-−*/×÷][\s($\[{{]*+")
RESULT = re.compile(rf"{UNIT}=[\s($\[{{]*+")
UNIT_POWER = re.compile(r"(?<=[A-Za-z])(\}?)\^\{?\d\}?")
OPERATION = re.compile(r"[\d)}]\s*[-−+*/×÷±^]|[*/×÷±^]\s*[\d({]|\\(?:sqrt|pi|log|ln|pm|sum|frac)")


def final_number(text: str) -> Fraction | None:
    """The number a text ends on by the rules above, `None` if it has none or names none."""
    text = plain_numbers(text)
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return None
    starts = [number.start() for number in numbers]
    for found in reversed(list(HEADING.finditer(text))):
        if (number := _directly(text, found.end())) is not None:
            return _value(_result(text, number))
    box = _last_box(text, starts)
    if box is not None:
        return _in_box(box)
    markers = [found.end() for found in ANSWER.finditer(text) if found.end() <= starts[-1]]
    if markers and (number := _directly(text, markers[-1])) is not None:
        return _value(_result(text, number))
    return _value(numbers[-1])


def _directly(text: str, start: int) -> re.Match[str] | None:
    """The number at `start`, whatever may stand before one that is an answer."""
    allowed = DIRECTLY.match(text, start)
    assert allowed is not None, "it matches the empty string"
    number = NUMBER.match(text, allowed.end())
    # The sign and the currency are allowed words, too, and belong to the number.
    for place in range(allowed.end() - 1, max(start, allowed.end() - 4) - 1, -1):
        longer = NUMBER.match(text, place)
        number = number if longer is None else longer
    return number


def _result(text: str, number: re.Match[str]) -> re.Match[str]:
    """Follow `6 boxes * 7 = 42` from its 6 to its 42; `42 = 6 * 7` is 42."""
    last: re.Match[str] | None = number
    end = number.end()
    worked_out = False
    while last is not None:
        if (term := TERM.match(text, end)) is not None:
            last = NUMBER.match(text, term.end())
            worked_out = True
        elif (equals := RESULT.match(text, end)) is not None:
            last = NUMBER.match(text, equals.end())
            if last is not None and (worked_out or TERM.match(text, last.end()) is None):
                number, worked_out = last, False
        else:
            break
        end = end if last is None else last.end()
    return number


def _last_box(text: str, starts: Sequence[int]) -> str | None:
    """What the last box holds that holds a number; one without an end goes to the line's end."""
    open_braces: list[int | None] = []
    boxes: dict[int, int] = {}
    for found in BOXED.finditer(text):
        match found.group():
            case "{":
                open_braces.append(None)
            case "}":
                if open_braces and (opened := open_braces.pop()) is not None:
                    boxes[opened] = found.start()
            case opener if opener.endswith("{"):
                open_braces.append(found.end())
            case _:
                number = NUMBER.match(text, found.end())
                boxes[found.end()] = found.end() if number is None else number.end()
    for opened in filter(None, open_braces):
        line = text.find("\n", opened)
        boxes[opened] = len(text) if line < 0 else line
    for begin in sorted(boxes, reverse=True):
        next_number = bisect_left(starts, begin)
        if next_number < len(starts) and starts[next_number] < boxes[begin]:
            return text[begin : boxes[begin]]
    return None


def _in_box(content: str) -> Fraction | None:
    """The one number after the last `=`, `None` if there are several or they are not worked out."""
    content = UNIT_POWER.sub(r"\1", content)
    content = re.sub(r"(?<=\d)\s+(?=\d{3}(?!\d))", ",", content.replace("\\", " \\"))
    content = re.sub(r"(?<![\w)}\s])\s*([-−])\s+", r"\1", content.strip())
    sides = [side for side in content.split("=") if NUMBER.search(side)]
    if not sides:
        return None
    numbers = list(NUMBER.finditer(sides[-1]))
    if OPERATION.search(NUMBER.sub("0", sides[-1])):
        return None
    values = {_value(number) for number in numbers}
    return values.pop() if len(values) == 1 else None


def _value(number: re.Match[str]) -> Fraction | None:
    whole, decimals = number["whole"].replace(",", "") or "0", number["decimals"] or "0"
    over, part = (number["over"] or "1").replace(",", ""), number["part"] or "0"
    if max(map(len, (whole, decimals, over, part))) > MAX_DIGITS:
        return None
    value = int(whole) + Fraction(int(decimals), 10 ** len(decimals))
    value *= Fraction(10) ** int(number["exponent"] or 0)
    if int(number["power"] or 1) <= MAX_POWER:
        value **= int(number["power"] or 1)
    if (under := Fraction(over)) != 0:
        value = value + int(part) / under if number["part"] else value / under
    return -value if number["sign"] or number["late"] else value
