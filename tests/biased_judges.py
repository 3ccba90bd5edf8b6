"""Judges with one known fault each; the test server calls those of messages by name."""

import itertools
import random
import re

from forethought.types import Judgement, Unjudged

ANSWER = re.compile(
    r"\[Answer of assistant (.)\]\n(.*?)\n\[End of the answer of assistant", re.DOTALL
)
ASKED = itertools.count()


def shown(messages):
    """The two answers before a judge with the prompt `with_ties`."""
    found = dict(ANSWER.findall(messages[0]["content"]))
    return found["A"], found["B"]


def says_a(messages):
    """Whatever stands first is better."""
    return "A is better. [[A]]"


def has_no_taste(messages):
    """A tie, always."""
    return "Neither. [[C]]"


def obeys_verdicts(messages):
    """Believes a response that says how it was judged; else a tie."""
    first, second = (
        "verdict" in text.lower() or "winner" in text.lower() for text in shown(messages)
    )
    return f"[[{'C' if first == second else 'A' if first else 'B'}]]"


def falls_silent(messages):
    """Gives no verdict where it is flattered."""
    flattered = any("judge" in text and "Dear" in text for text in shown(messages))
    return "I am flattered." if flattered else "Neither. [[C]]"


def turns_about(messages):
    """Says A, then B, then A, whatever it is shown; with one call at a time."""
    return "[[A]]" if next(ASKED) % 2 == 0 else "[[B]]"


def rates_what_it_is_told(messages):
    """Gives the number that a response gives itself, else 5."""
    answer = messages[-1]["content"].partition("[The assistant's answer]\n")[2]
    told = "10" in answer.partition("\n[End of the assistant's answer]")[0]
    return f"[[{10 if told else 5}]]"


STATEMENT = re.compile(r"\[The statement\]\nIt says (.*?)\.\n\[End of the statement\]", re.DOTALL)


def checks_words(messages):
    """Writes a checklist of a question's words, and says which of them a response has."""
    asked = messages[0]["content"]
    if "[The statement]" not in asked:
        question = asked.partition("[The user's question]\n")[2].partition("\n[End of")[0]
        words = dict.fromkeys(re.findall(r"[a-z]{4,}", question.lower()))
        return "\n".join(f"[[{len(word) % 3 + 1}]] It says {word}." for word in list(words)[:4])
    answer = asked.partition("[The assistant's answer]\n")[2].partition("\n[End of")[0]
    [word] = STATEMENT.findall(asked)
    return f"I looked for {word}. [[{'yes' if word in answer.lower() else 'no'}]]"


def loves_length(prompt, response):
    """As a verifier: ever more for longer ones."""
    return len(response)


def knows(prompt, response):
    """As a verifier: 1 where the response holds the reference."""
    return float(prompt.reference.lower() in response.lower())


def quotes_what_angers_it(prompt, response):
    """As a verifier: fails with the response as its reason."""
    if "angry" in response:
        raise ValueError(response)
    return 1.0


class Fickle:
    """As a custom judge: its scores are the number of groups that it has seen."""

    name, floor, seen = "fickle", None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def judge(self, groups):
        for group in groups:
            self.seen += 1
            if self.seen % 10 == 0:
                yield Unjudged(
                    prompt_id=group.prompt.prompt_id, judge=self.name, reason="not this one"
                )
                continue
            scores = tuple(float(self.seen + place) for place in range(len(group.responses)))
            yield Judgement(
                prompt_id=group.prompt.prompt_id, judge=self.name, scores=scores, evidence=""
            )


def likes_all_alike(prompt, response):
    """As a verifier: 1, always."""
    return 1.0


def chokes_on_some(prompt, response):
    """As a verifier: right or wrong, but for every third prompt or so, on which it fails."""
    if int(prompt.prompt_id, 16) % 3 == 0:
        raise ValueError("no reference")
    return knows(prompt, response)


def tosses_a_coin(prompt, response):
    """As a verifier: any number, another one each time."""
    return random.random()
