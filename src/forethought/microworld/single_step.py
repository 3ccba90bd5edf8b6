"""The categories of instruction that need no intermediate result: facts, greetings, formatting."""

from random import Random

from forethought.microworld.problem import Problem, another, comma_separated, enumerated
from forethought.microworld.vocabulary import (
    CAPITALS,
    COLOURS,
    KINDS,
    NAMES,
    OPPOSITES,
    SUBJECTS,
    SYNONYMS,
    VERBS,
    WORDS,
    YOUNG,
)


def fact(rng: Random) -> Problem:
    """A capital, a colour or the name of a young animal is asked for."""
    match rng.choice(("capital", "colour", "young")):
        case "capital":
            thing, answer = rng.choice(list(CAPITALS.items()))
            table, topic = CAPITALS, f"the capital of {thing}"
            questions = (
                f"What is the capital of {thing}?",
                f"Which city is the capital of {thing}?",
                f"Name the capital of {thing}.",
            )
        case "colour":
            thing, answer = rng.choice(list(COLOURS.items()))
            table, topic = COLOURS, f"the colour of {thing}"
            questions = (
                f"What colour is {thing}?",
                f"Which colour has {thing}?",
                f"Name the colour of {thing}.",
            )
        case _:
            thing, answer = rng.choice(list(YOUNG.items()))
            table, topic = YOUNG, f"a young {thing}"
            questions = (
                f"What is a young {thing} called?",
                f"What do you call a baby {thing}?",
                f"Give me the word for a young {thing}.",
            )
    body = rng.choice(questions)
    return Problem(
        body=body,
        identity="",
        reference=answer,
        steps=(f"{topic} is {answer}",),
        mistake=another(rng, sorted(set(table.values())), answer),
    )


def opposite(rng: Random) -> Problem:
    """The opposite of a word is asked for; the mistake is some word of another pair."""
    pair = rng.choice(OPPOSITES)
    word, answer = pair if rng.random() < 0.5 else pair[::-1]
    body = rng.choice(
        (
            f"What is the opposite of {word}?",
            f"Which word means the opposite of {word}?",
            f"Give me the opposite of {word}.",
            f"Not {word}, but the other way round: which word is it?",
        )
    )
    others = [member for other in OPPOSITES if other != pair for member in other]
    return Problem(
        body=body,
        identity="",
        reference=answer,
        steps=(f"{word} against {answer}",),
        mistake=rng.choice(others),
    )


def rewrite(rng: Random) -> Problem:
    """A word is to be replaced by a synonym; the mistake takes its opposite, if it has one."""
    word = rng.choice(list(SYNONYMS))
    subject, verb = rng.choice(SUBJECTS), rng.choice(VERBS)
    sentence = f"The {word} {subject} {verb}."
    body = rng.choice(
        (
            f'Say this with another word for {word}: "{sentence}"',
            f'Rewrite this and replace {word} by a word of the same meaning: "{sentence}"',
            f'Use a different word for {word} in "{sentence}"',
        )
    )
    opposites = dict(OPPOSITES) | {right: left for left, right in OPPOSITES}
    return Problem(
        body=body,
        identity="",
        reference=f"The {SYNONYMS[word][0]} {subject} {verb}.",
        steps=(f"{word} means {SYNONYMS[word][0]}",),
        mistake=f"The {opposites.get(word, word)} {subject} {verb}.",
    )


def greeting(rng: Random) -> Problem:
    """Somebody is to be greeted by name."""
    name = rng.choice(NAMES)
    body = rng.choice(
        (
            f"Hello, my name is {name}.",
            f"Hi there, I am {name}.",
            f"Good morning! I am {name}.",
            f"Greet my friend {name}.",
            f"Please say hello to {name}.",
            f"Write a greeting for {name}.",
            f"{name} is here. Say hello.",
        )
    )
    return Problem(
        body=body,
        identity="",
        reference=name,
        steps=(f"the name is {name}", "a greeting with the name"),
        mistake=another(rng, NAMES, name),
    )


def uppercase(rng: Random) -> Problem:
    """Words are to be written in capitals; the mistake leaves them as they are."""
    words = rng.sample(WORDS, rng.randint(2, 3))
    text = " ".join(words)
    body = rng.choice(
        (
            f'Write "{text}" in capital letters.',
            f'Turn "{text}" into upper case.',
            f'Shout "{text}" in big letters.',
        )
    )
    return Problem(
        body=body,
        identity=text,
        reference=text.upper(),
        steps=tuple(f"{word} is {word.upper()}" for word in words),
        mistake=text,
    )


def brackets(rng: Random) -> Problem:
    """Words are to be put in brackets or stars; the mistake takes others."""
    text = " ".join(rng.sample(WORDS, rng.randint(2, 3)))
    (name, left, right), (_, other_left, other_right) = rng.sample(
        (("square brackets", "[", "]"), ("round brackets", "(", ")"), ("stars", "*", "*")), 2
    )
    body = rng.choice(
        (
            f'Put "{text}" in {name}.',
            f'Wrap the words "{text}" in {name}.',
            f'Write "{text}" with {name} around it.',
        )
    )
    return Problem(
        body=body,
        identity=f"{name} {text}",
        reference=f"{left}{text}{right}",
        steps=(f"{name} are {left} and {right}", f"between them {text}"),
        mistake=f"{other_left}{text}{other_right}",
    )


def repeat(rng: Random) -> Problem:
    """Words are to be said again; the mistake leaves out the last."""
    words = rng.sample(WORDS, rng.randint(3, 4))
    text = " ".join(words)
    body = rng.choice(
        (
            f'Say exactly "{text}".',
            f'Repeat after me: "{text}".',
            f'Write "{text}" once more.',
        )
    )
    return Problem(
        body=body,
        identity=text,
        reference=text,
        steps=(f"the words are {comma_separated(words)}",),
        mistake=" ".join(words[:-1]),
    )


def members(rng: Random) -> Problem:
    """Two or three things of a kind are asked for; the mistake ends with one of another kind."""
    kind = rng.choice(list(KINDS))
    count = rng.choice(("two", "three"))
    body = rng.choice(
        (
            f"Name {count} {kind}.",
            f"List {count} {kind}.",
            f"Give me {count} examples of {kind}.",
            f"Can you tell me {count} {kind}?",
        )
    )
    number = 2 if count == "two" else 3
    chosen = rng.sample(KINDS[kind], number)
    other = rng.choice(KINDS[another(rng, list(KINDS), kind)])
    return Problem(
        body=body,
        identity="",
        reference=enumerated(chosen),
        steps=(f"some {kind} are {comma_separated(chosen)}",),
        mistake=enumerated([*chosen[:-1], other]),
    )
