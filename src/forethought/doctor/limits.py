"""Every limit that doctor holds a figure against, and why it stands where it does.

A figure above `look` is worth a look, one above `stop` would cost the run its result. All figures
are of a few prompts: with sixteen prompts of eight outputs a share of outputs is known to about ten
points, so that no limit is finer than that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Above which values a check says look and stop.

    Example: `Limit(look=0.1, stop=0.5, why="…")`
    """

    look: float
    stop: float | None
    """`None` where no value alone spoils a run."""
    why: str


UNPARSED = Limit(
    look=0.1,
    stop=0.5,
    why="the paper's runs had at most 10 % of pairs that reject an output without a response; "
    "where most outputs have none, most of the sampling is paid for nothing",
)
CUT_OFF = Limit(
    look=0.1,
    stop=0.5,
    why="what is cut off is never judged: as with outputs that do not parse",
)
NO_ROOM = Limit(
    look=0.0,
    stop=0.25,
    why="an output that the context cuts off is lost however large max_new_tokens is; a long "
    "prompt now and then costs its own outputs only",
)
DUPLICATES = Limit(
    look=0.75,
    stop=0.95,
    why="short right answers repeat: those of the microworld's direct arm to 55 %. Above 75 % "
    "eight samples are about two; at 95 % nearly all are one",
)
TIES = Limit(
    look=0.75,
    stop=0.95,
    why="a judge that says right or wrong ties on prompts that are too easy or too hard: of the "
    "microworld's direct arm half. Above 75 % every pair is paid for with four prompts",
)
JUDGE_FAILURES = Limit(
    look=0.0,
    stop=0.1,
    why="a prompt without scores is lost, and which prompts these are is not left to chance",
)
JUDGE_NOISE = Limit(
    look=0.1,
    stop=0.3,
    why="0 is a judge that says the same again, 0.5 one that tosses a coin; above 0.3 more than "
    "half of its order is chance",
)
FOLLOWS_LENGTH = Limit(
    look=0.4,
    stop=0.8,
    why="sixteen prompts of eight responses give 0.4 by chance in one of thousands of cases; above "
    "0.8 length explains more than half of a score, and pairs.rho, at most 0.5 in the paper, "
    "cannot take that away",
)
LEFT_OUT = Limit(
    look=0.05,
    stop=None,
    why="a few prompts that cannot be asked are no loss; many say that the file is not what it "
    "seems",
)
FEW_EXAMPLES = Limit(
    look=0.9,
    stop=None,
    why="where less than a tenth of the demonstrated outputs can be trained on, what is kept is "
    "hardly chosen by the judge any more",
)
HOURS = Limit(
    look=72.0,
    stop=None,
    why="hours; a run of more than three days is worth a plan of its own",
)
FEW = 4
"""Prompts with different responses below which nothing is said of their ties."""
ENOUGH = 8
"""Pairs of responses, or prompts with scores that differ, that other figures about a judge rest
on at least."""
