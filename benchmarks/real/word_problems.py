"""Word problems of two small steps."""

from __future__ import annotations

import operator
from random import Random

from tasks import Task, Template, Templates
from word_lists import COUNTED, NAMES

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def word_problem(text: str, signs: str, first: range = range(2, 10)) -> Template:
    """Three numbers of which none is the result; other names alone make no other prompt.

    `signs` are of the two steps: with "+-" the result is a + b - c.
    """

    def template(rng: Random) -> Task:
        half_way, result, numbers = 0, 0, (0, 0, 0)
        while half_way < 1 or result < 1 or result in numbers:
            numbers = (rng.choice(first), rng.randint(2, 6), rng.randint(2, 6))
            half_way = SIGNS[signs[0]](*numbers[:2])
            result = SIGNS[signs[1]](half_way, numbers[2])
        name, friend = rng.sample(NAMES, 2)
        a, b, c = numbers
        filled = text.format(a=a, b=b, c=c, name=name, friend=friend, things=rng.choice(COUNTED))
        return Task(
            prompt=f"{filled} Write only the number.",
            constraints=[{"type": "final_number", "value": result}],
            fillers=numbers,
            thought=f"{a} {signs[0]} {b} = {half_way}. {half_way} {signs[1]} {c} = {result}.",
            response=str(result),
        )

    return template


PROBLEMS: Templates = {
    "buy_and_give": word_problem(
        "{name} has {a} {things}. {name} buys {b} more and then gives {c} to {friend}. "
        "How many {things} does {name} have now?",
        "+-",
    ),
    "lose_and_find": word_problem(
        "There are {a} {things} in a box. {name} takes out {b} and puts in {c} others. "
        "How many {things} are in the box now?",
        "-+",
        range(4, 14),
    ),
    "three_days": word_problem(
        "{name} sold {a} {things} on Monday, {b} on Tuesday and {c} on Wednesday. "
        "How many {things} did {name} sell in all?",
        "++",
    ),
    "gone_twice": word_problem(
        "{name} had {a} {things}. {name} lost {b} and gave {c} to {friend}. "
        "How many {things} are left?",
        "--",
        range(6, 16),
    ),
    "boxes_and_more": word_problem(
        "{name} has {a} boxes with {b} {things} in each, and {c} more {things} on the table. "
        "How many {things} does {name} have?",
        "*+",
        range(2, 7),
    ),
    "boxes_and_less": word_problem(
        "{name} bought {a} bags with {b} {things} in each and gave away {c} {things}. "
        "How many {things} does {name} still have?",
        "*-",
        range(2, 7),
    ),
    "money_left": word_problem(
        "{name} has {a} dollars. {name} pays {b} dollars for lunch and {c} dollars for a ticket. "
        "How many dollars are left?",
        "--",
        range(6, 16),
    ),
    "bus_stops": word_problem(
        "There are {a} people on a bus. At the first stop {b} get off, and at the next stop "
        "{c} get on. How many people are on the bus now?",
        "-+",
        range(4, 14),
    ),
}
NEW_PROBLEMS: Templates = {
    "more_than": word_problem(
        "{friend} has {a} {things}. {name} has {b} more than {friend} and finds another {c}. "
        "How many {things} does {name} have?",
        "++",
    ),
    "two_prices": word_problem(
        "A pen costs {a} dollars and a book costs {b} dollars more than the pen. A bag costs {c} "
        "dollars more than the book. How many dollars does the bag cost?",
        "++",
    ),
    "pages": word_problem(
        "A book has {a} pages. {name} reads {b} pages on Saturday and {c} pages on Sunday. "
        "How many pages are left to read?",
        "--",
        range(6, 16),
    ),
    "rows": word_problem(
        "There are {a} rows of {b} chairs in a hall, and {c} chairs are broken. "
        "How many chairs can be used?",
        "*-",
        range(2, 7),
    ),
}
