"""Short texts with two to four constraints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from tasks import Task, Template, Templates
from word_lists import COMMON_WORDS, KEYWORDS, NAMES, TOPICS

Rule = Callable[[Random, Mapping[str, str]], tuple[str, Mapping[str, Any]]]
"""Draws one constraint: the sentence that asks for it, and what grades it."""
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


def fixed(sentence: str, kind: str, **fields: Any) -> Rule:
    """A constraint without anything to draw; `{name}` in a text is filled in."""

    def rule(rng: Random, fillers: Mapping[str, str]) -> tuple[str, Mapping[str, Any]]:
        filled = {
            key: value.format(**fillers) if isinstance(value, str) else value
            for key, value in fields.items()
        }
        return sentence.format(**fillers), {"type": kind, **filled}

    return rule


def counted(sentence: str, kind: str, bound: str, numbers: Sequence[int], **fields: Any) -> Rule:
    """A constraint with a number, which `{n}` in the sentence says: in letters up to five."""

    def rule(rng: Random, fillers: Mapping[str, str]) -> tuple[str, Mapping[str, Any]]:
        n = rng.choice(numbers)
        return sentence.format(n=NUMBERS.get(n, n)), {"type": kind, bound: n, **fields}

    return rule


def one_word(sentence: str, kind: str, words: Sequence[str], **fields: Any) -> Rule:
    """A constraint about a word, which `{word}` in the sentence says."""

    def rule(rng: Random, fillers: Mapping[str, str]) -> tuple[str, Mapping[str, Any]]:
        word = rng.choice(words)
        about = {
            "keyword_count": {"word": word},
            "letter_count": {"letter": word},
        }.get(kind, {"words": [word]})
        return sentence.format(word=word), {"type": kind, **about, **fields}

    return rule


def two_words(rng: Random, fillers: Mapping[str, str]) -> tuple[str, Mapping[str, Any]]:
    """Both of two keywords."""
    words = rng.sample(KEYWORDS, 2)
    return f'Use the words "{words[0]}" and "{words[1]}".', {"type": "keywords", "words": words}


def three_in_order(rng: Random, fillers: Mapping[str, str]) -> tuple[str, Mapping[str, Any]]:
    """Three keywords in the order that is given."""
    words = rng.sample(KEYWORDS, 3)
    said = f'Use the words "{words[0]}", "{words[1]}" and "{words[2]}" in this order.'
    return said, {"type": "in_order", "words": words}


LOWER_CASE = fixed("Write everything in lower case, without any capital letters.", "lower_case")
UPPER_CASE = fixed("Write everything in capital letters.", "upper_case")
NO_COMMAS = fixed("Do not use any commas.", "no_commas")
QUESTION = fixed("End with a question.", "ends_with_question")
TITLE = fixed("Begin with a title in double angular brackets, such as <<My Title>>.", "title")
QUOTED = fixed("Put the whole text in double quotation marks.", "quoted")
FEW_WORDS = counted("Use at most {n} words.", "words", "at_most", (10, 12, 15, 18))
SOME_WORDS = counted("Use at most {n} words.", "words", "at_most", (20, 25, 30))
SENTENCES = counted("Write exactly {n} sentences.", "sentences", "exactly", (2, 3, 4))
ONE_SENTENCE = counted("Write exactly {n} sentence.", "sentences", "exactly", (1,))
BULLETS = counted(
    'Write exactly {n} bullet points, each on a line that begins with "-".',
    "bullets",
    "exactly",
    (2, 3, 4, 5),
)
PARAGRAPHS = counted(
    "Write exactly {n} paragraphs with an empty line between them.",
    "paragraphs",
    "exactly",
    (2, 3),
)
BLANKS = counted(
    "Leave at least {n} gaps in square brackets, such as [name].",
    "placeholders",
    "at_least",
    (2, 3),
)
SHOUTED = counted(
    "Write exactly {n} words in capital letters and all others as usual.",
    "capital_words",
    "exactly",
    (2, 3),
)
KEYWORD = one_word('Use the word "{word}".', "keywords", KEYWORDS)
FORBIDDEN = one_word('Do not use the word "{word}".', "forbidden_words", COMMON_WORDS)
TWICE = one_word('Use the word "{word}" exactly twice.', "keyword_count", KEYWORDS, exactly=2)
LETTER = one_word(
    'Use the letter "{word}" at least four times.',
    "letter_count",
    ("b", "f", "g", "k", "p", "v", "w"),
    at_least=4,
)
ALPHABETICAL = fixed("Put them in alphabetical order, separated by commas.", "alphabetical")
DEAR = fixed('Begin with the words "Dear {name}".', "starts_with", text="Dear {name}")
ONCE = fixed('Begin with the words "Once upon a time".', "starts_with", text="Once upon a time")
THE_END = fixed('End with the words "The end."', "ends_with", text="The end.")
SEE_YOU = fixed('End with the words "See you soon."', "ends_with", text="See you soon.")


def writing(request: str, rules: Sequence[Rule]) -> Template:
    """A request with its constraints, in an order that is drawn; a topic comes once."""

    def template(rng: Random) -> Task:
        fillers = {"topic": rng.choice(TOPICS), "name": rng.choice(NAMES)}
        drawn = [rule(rng, fillers) for rule in rules]
        rng.shuffle(drawn)
        sentences = [request.format(**fillers), *(sentence for sentence, _ in drawn)]
        return Task(
            prompt=" ".join(sentences),
            constraints=[constraint for _, constraint in drawn],
            fillers=fillers["topic"],
        )

    return template


WRITING: Templates = {
    "note": writing("Write a short note to {name} about {topic}.", (DEAR, SENTENCES, SEE_YOU)),
    "describe": writing("Describe {topic}.", (FEW_WORDS, NO_COMMAS)),
    "small": writing("Write a short text about {topic}.", (LOWER_CASE, SOME_WORDS, KEYWORD)),
    "poem": writing("Write a poem of four lines about {topic}.", (TITLE, two_words)),
    "advice": writing(
        "Say what people should know about {topic}.", (BULLETS, NO_COMMAS, FORBIDDEN)
    ),
    "poster": writing("Write the text of a poster about {topic}.", (UPPER_CASE, FEW_WORDS)),
    "ask": writing("Ask {name} something about {topic}.", (ONE_SENTENCE, QUESTION, KEYWORD)),
    "article": writing("Write a short article about {topic}.", (PARAGRAPHS, QUESTION)),
    "diary": writing("Write in a diary about {topic}.", (three_in_order, SOME_WORDS)),
    "form": writing("Write a letter for everybody to fill in, about {topic}.", (BLANKS, SENTENCES)),
    "saying": writing("Make up a wise saying about {topic}.", (QUOTED, FEW_WORDS, NO_COMMAS)),
    "twice": writing("Write something about {topic}.", (TWICE, SENTENCES)),
    "letters": writing("Write one line about {topic}.", (LETTER, ONE_SENTENCE, FORBIDDEN)),
    "shout": writing("Write a message to {name} about {topic}.", (SHOUTED, QUESTION)),
    "story": writing("Tell a very short story about {topic}.", (ONCE, THE_END, SOME_WORDS, TWICE)),
    "words": writing(
        "Name four words that have to do with {topic}.",
        (ALPHABETICAL, LOWER_CASE, counted("Write nothing else.", "words", "at_most", (8,))),
    ),
}
NEW_WRITING: Templates = {
    "review": writing("Review a film about {topic}.", (SENTENCES, FORBIDDEN, TITLE)),
    "speech": writing("Write how a speech about {topic} begins.", (TWICE, QUESTION, SOME_WORDS)),
    "postcard": writing(
        "Write a postcard to {name} about {topic}.", (LOWER_CASE, SEE_YOU, NO_COMMAS)
    ),
    "plan": writing("Make a plan that has to do with {topic}.", (TITLE, BULLETS)),
    "rumour": writing("Tell a rumour about {topic}.", (QUOTED, three_in_order, ONE_SENTENCE)),
}
