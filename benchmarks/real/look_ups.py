"""Questions with two hops in a passage of five sentences."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tasks import Task, Template, Templates
from word_lists import (
    BOOKS,
    CARGOES,
    COLOURS,
    COUNTRIES,
    DAYS,
    FLOORS,
    FLOWERS,
    INSTRUMENTS,
    JOBS,
    MEN,
    NAMES,
    PETS,
    ROOMS,
    SHIPS,
    SHOPS,
    STREETS,
    TEACHERS,
    TEAMS,
    THINGS,
    TOWNS,
    WOMEN,
)


def look_up(
    *,
    first: str,
    second: str,
    question: str,
    answer: str = "",
    starts: Sequence[str],
    links: Sequence[str],
    ends: Sequence[str],
) -> Template:
    """From a start over a link to an end, as from a person over a town to its market day.

    Two starts and three links with their ends, in any order: one link is of nobody. `answer` says
    the end without the link; what is only tested on needs none.
    """

    def template(rng: Random) -> Task:
        asked, other = rng.sample(starts, 2)
        ways, answers = rng.sample(links, 3), rng.sample(ends, 3)
        passage = [
            first.format(start=start, link=link)
            for start, link in zip((asked, other), ways, strict=False)
        ]
        passage += [
            second.format(link=link, end=end) for link, end in zip(ways, answers, strict=True)
        ]
        rng.shuffle(passage)
        request = f"{question.format(start=asked)} Answer in one short sentence."
        wanted = {"type": "answer", "text": answers[0], "distractors": answers[1:]}
        hops = first.format(start=asked, link=ways[0]), second.format(link=ways[0], end=answers[0])
        return Task(
            prompt=f"{' '.join(passage)}\n\n{request}",
            constraints=[wanted],
            fillers=frozenset([asked, other, *ways, *answers]),
            thought=" ".join(hops),
            response=answer.format(start=asked, end=answers[0]),
        )

    return template


LOOK_UPS: Templates = {
    "market_day": look_up(
        first="{start} lives in {link}.",
        second="The market in {link} is on {end}.",
        question="On which day is the market in the town where {start} lives?",
        answer="It is on {end}.",
        starts=NAMES,
        links=TOWNS,
        ends=DAYS,
    ),
    "sleeping_place": look_up(
        first="The dog of {start} is called {link}.",
        second="{link} sleeps in the {end}.",
        question="In which room does the dog of {start} sleep?",
        answer="It sleeps in the {end}.",
        starts=NAMES,
        links=PETS,
        ends=ROOMS,
    ),
    "workplace": look_up(
        first="{start} works in the {link}.",
        second="The {link} is in {end}.",
        question="In which street does {start} work?",
        answer="{start} works in {end}.",
        starts=NAMES,
        links=SHOPS,
        ends=STREETS,
    ),
    "bus": look_up(
        first="{start} takes the {link} bus.",
        second="The {link} bus goes to {end}.",
        question="Where does the bus of {start} go?",
        answer="It goes to {end}.",
        starts=NAMES,
        links=COLOURS,
        ends=TOWNS,
    ),
    "brother": look_up(
        first="{start} has a brother called {link}.",
        second="{link} plays the {end}.",
        question="Which instrument does the brother of {start} play?",
        answer="He plays the {end}.",
        starts=WOMEN,
        links=MEN,
        ends=INSTRUMENTS,
    ),
    "teacher": look_up(
        first="{start} is taught by {link}.",
        second="The room of {link} is on the {end} floor.",
        question="On which floor is the room of the teacher of {start}?",
        answer="It is on the {end} floor.",
        starts=NAMES,
        links=TEACHERS,
        ends=FLOORS,
    ),
    "box": look_up(
        first="The {start} is in the {link} box.",
        second="The {link} box is in the {end}.",
        question="In which room is the {start}?",
        answer="It is in the {end}.",
        starts=THINGS,
        links=COLOURS,
        ends=ROOMS,
    ),
    "team": look_up(
        first="{start} plays for the {link}.",
        second="The shirts of the {link} are {end}.",
        question="Which colour is the shirt of {start}?",
        answer="It is {end}.",
        starts=NAMES,
        links=TEAMS,
        ends=COLOURS,
    ),
    "book": look_up(
        first='{start} reads "{link}".',
        second='"{link}" was written by {end}.',
        question="Who wrote the book that {start} reads?",
        answer="{end} wrote it.",
        starts=WOMEN,
        links=BOOKS,
        ends=MEN,
    ),
}
NEW_LOOK_UPS: Templates = {
    "ship": look_up(
        first="{start} sails on the {link}.",
        second="The {link} carries {end}.",
        question="What does the ship of {start} carry?",
        starts=NAMES,
        links=SHIPS,
        ends=CARGOES,
    ),
    "friend": look_up(
        first="{start} is a friend of {link}.",
        second="{link} works as a {end}.",
        question="What is the job of the friend of {start}?",
        starts=WOMEN,
        links=MEN,
        ends=JOBS,
    ),
    "aunt": look_up(
        first="The aunt of {start} is {link}.",
        second="{link} was born in {end}.",
        question="In which country was the aunt of {start} born?",
        starts=MEN,
        links=WOMEN,
        ends=COUNTRIES,
    ),
    "garden": look_up(
        first="{start} looks after the garden in {link}.",
        second="In the garden in {link} grow {end}.",
        question="Which flowers does {start} look after?",
        starts=NAMES,
        links=TOWNS,
        ends=FLOWERS,
    ),
}
