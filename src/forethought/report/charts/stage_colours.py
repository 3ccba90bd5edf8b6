"""Names and colours of a run's stages on the page."""

from __future__ import annotations

STAGES = {
    "vocabulary": ("new tokens", "@stage-4"),
    "rollouts": ("sampling", "@stage-1"),
    "judgements": ("judging", "@stage-2"),
    "examples": ("examples", "@stage-3"),
    "pairs": ("pairs", "@stage-3"),
    "reference": ("reference log-probs", "@stage-4"),
    "training": ("training", "@stage-5"),
    "selection": ("epoch selection", "@stage-6"),
    "evaluation": ("evaluation", "@stage-7"),
    "measures": ("measures", "@stage-8"),
}
"""In the order in which they are run."""
