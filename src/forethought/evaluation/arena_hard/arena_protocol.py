"""The judge's side of Arena-Hard v0.1: two games a question, in swapped order, five labels.

System prompt, template, labels and the words of the second try are the published ones
(judging/llm/prompts/arena_hard.yaml), greedy, at most 4096 tokens a reply. A label is what
`\\[\\[([AB<>=]+)\\]\\]` finds; a judge that gave none is told once to finish. Several distinct
labels, or one that the prompt does not offer, are no verdict and there is no second try: so does
the published code (gen_judgment.py of v0.1). A game without a verdict is left out of the score,
and says why.

It departs from the published code in three ways:

- Where a question or an answer spells out a label, a delimiter of the template or a control token,
  that text is broken by an invisible character, so that it cannot end its frame or vote (see
  judging/llm/frame.py). Other text is sent as it is: no question of the benchmark and no answer of
  its baseline is changed.
- A reply that is cut off by the token limit is not read; the judge is told to finish. The published
  code takes a label in it, if there is one.
- Reasoning in `<think>` tags is not read for labels.

Questions have a single turn. Example::

    with Cache(path) as cache, open_arena_judge(engine, cache) as judge:
        [(first, second)] = play(judge, [Match(question=prompt, baseline="…", answer="…")])
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from forethought.config import OpenAIEngine
from forethought.decoding.request import SamplingParams
from forethought.evaluation.arena_hard.arena_score import BATTLES
from forethought.judging.llm.prompt_file import load_prompt
from forethought.judging.llm.verdicts import NoVerdict, Verdict, ask
from forethought.sampling.base import Sampler
from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache
from forethought.types import Prompt, SampleRequest

GREEDY = SamplingParams(temperature=0, top_p=1, max_new_tokens=4096)
LABEL = re.compile(r"\[\[([AB<>=]+)\]\]")
UNCLEAR = ""
"""Stands for labels that are no verdict, so that the judge is not asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A question with both answers; responses alone, no thoughts.

    Example: `Match(question=Prompt(…), baseline="X: 1 …", answer="Here is a tune. …")`
    """

    question: Prompt
    baseline: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """One comparison.

    Example: `Game(user_prompt="<|User Prompt|> …", judgment="My own answer: … [[A>B]]",
    label="A>B", reason=None)`
    """

    user_prompt: str
    """What the judge was shown."""
    judgment: str
    """What it said, both tries where it took two; empty where nothing could be read."""
    label: str | None
    """The verdict; `None` where there is none."""
    reason: str | None
    """Why there is none, or whence it came where no judge was asked."""


def open_arena_judge(engine: OpenAIEngine, cache: Cache | None) -> Sampler:
    """The judge at its endpoint, as the protocol draws it. What is in the cache is not asked again.

    Raises: ValueError if the server or its model cannot be used.
    """
    return open_sampler(engine, model=None, params=GREEDY, cache=cache, token_ids=False)


def play(judge: Sampler, matches: Sequence[Match]) -> list[tuple[Game, Game]]:
    """Both games of every match: the baseline is A in the first, the model in the second.

    Raises: ValueError where the judge's engine fails.
    """
    prompt = load_prompt("arena_hard", "pairwise")
    requests = [
        SampleRequest(
            prompt_id=match.question.prompt_id,
            messages=prompt.messages(match.question, shown),
            seeds=(0,),
        )
        for match in matches
        for shown in ((match.baseline, match.answer), (match.answer, match.baseline))
    ]
    verdicts = ask(judge, requests, read_label, prompt.finish)
    games = [_game(*each) for each in zip(requests, verdicts, strict=True)]
    return list(zip(games[::2], games[1::2], strict=True))


def read_label(said: str) -> str | NoVerdict:
    """The one label in a judge's words, `UNCLEAR` where it is not one, no verdict where none is."""
    match list(dict.fromkeys(LABEL.findall(said))):
        case []:
            return NoVerdict(reason="no label")
        case [label] if label in BATTLES:
            return label
        case _:
            return UNCLEAR


def _game(request: SampleRequest, answer: list[Verdict[str] | NoVerdict]) -> Game:
    _, asked = request.messages
    label, judgment, reason = None, "", None
    match answer:
        case [NoVerdict(reason=reason)]:
            pass
        case [Verdict(value=value, said=judgment)] if value == UNCLEAR:
            found = dict.fromkeys(LABEL.findall(judgment))
            reason = f"not one of the five labels: {', '.join(found)}"
        case [Verdict(value=label, said=judgment)]:
            pass
        case _:
            raise AssertionError("a request with one seed has one answer")
    return Game(user_prompt=asked.content, judgment=judgment, label=label, reason=reason)
