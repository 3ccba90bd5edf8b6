"""Win rates of A against B on the same prompts: raw, by category, and length-controlled.

A prompt's preference is 1 where A's response is better, 0 where B's is, 1/2 at a tie. Intervals are
those of share_interval.py over prompts, a prompt coming with both answers. For the
length-controlled rate the effective number of prompts is told by a bootstrap of the fit, again with
one more prompt for each side, of equal lengths, so that it holds where A wins everything.

The length-controlled win rate is that of AlpacaEval 2 (Dubois et al. 2024) without its terms for
the instruction's difficulty, which are known for its own instructions only: the logistic model

    P(A preferred) = sigmoid(theta + phi * tanh((length_A - length_B) / std))

is fitted to the preferences, and its value at equal lengths, sigmoid(theta), is the figure. Ours:
phi has a Gaussian prior of standard deviation 10, so that a data set in which the longer response
always wins still has a fit. Swapping A and B turns every figure p into 1 - p. Where one side's
responses are longer on all but a few prompts, equal lengths lie outside what was seen and the model
would be read off where it only guesses: there is no figure then (`LengthOverlap`).

Shapes: P prompts, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forethought.evaluation.intervals import mean_result
from forethought.share_interval import SHARE, exact_interval
from forethought.types import EvaluationResult

RESAMPLES = 2000
PRIOR_PRECISION = 0.01
"""Of phi: one over the square of the prior's standard deviation."""
LEAST_SHARE = 0.1
"""Share of the prompts on which each side's response has to be no longer than the other's."""
LEAST_PROMPTS = 3
"""And their number, where there are as many prompts."""
NEWTON_STEPS = 40
LARGEST_LOGIT = 12.0
"""Where a resample has one outcome only theta has no finite fit; the rate is 0 or 1 to 6e-6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAnswers:
    """A's answer beside B's on one prompt.

    Example: `ComparedAnswers(prompt_id="9f2c…", preference=1.0, first_length=812,
    second_length=640, category="maths")`
    """

    prompt_id: str
    preference: float
    """Share of A's answers that beat B's, ties half, in [0, 1]."""
    first_length: float
    """Length of A's response in characters."""
    second_length: float
    category: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthOverlap:
    """On how many prompts each side's response is the longer one, of those with both responses.

    Example: `LengthOverlap(first_longer=11, second_longer=1, equal=0)`
    """

    first_longer: int
    second_longer: int
    equal: int

    @property
    def suffices(self) -> bool:
        """Whether equal lengths lie within the lengths that were seen."""
        count = self.first_longer + self.second_longer + self.equal
        needed = min(count, max(LEAST_PROMPTS, LEAST_SHARE * count))
        return count > 0 and min(self.first_longer, self.second_longer) + self.equal >= needed


def length_overlap(comparisons: Sequence[ComparedAnswers]) -> LengthOverlap:
    """Count which side is longer; prompts on which a side has no response say nothing of it."""
    apart = [
        comparison.first_length - comparison.second_length
        for comparison in comparisons
        if comparison.first_length or comparison.second_length
    ]
    return LengthOverlap(
        first_longer=sum(difference > 0 for difference in apart),
        second_longer=sum(difference < 0 for difference in apart),
        equal=sum(difference == 0 for difference in apart),
    )


def win_rate(
    comparisons: Sequence[ComparedAnswers], *, name: str = "win_rate", category: str | None = None
) -> EvaluationResult:
    """A's raw win rate, a share in [0, 1].

    Raises: ValueError if there is no comparison.
    """
    preferences_P = _preferences(comparisons, name)
    return mean_result(name, preferences_P.tolist(), category=category, ends=SHARE)


def category_win_rates(
    comparisons: Sequence[ComparedAnswers], *, name: str = "win_rate"
) -> list[EvaluationResult]:
    """The raw win rate of every category, by name; nothing where no prompt has one."""
    categories = sorted(
        {comparison.category for comparison in comparisons if comparison.category is not None}
    )
    return [
        win_rate(
            [comparison for comparison in comparisons if comparison.category == each],
            name=name,
            category=each,
        )
        for each in categories
    ]


def length_controlled_win_rate(
    comparisons: Sequence[ComparedAnswers],
    *,
    name: str = "length_controlled_win_rate",
    resamples: int = RESAMPLES,
) -> EvaluationResult:
    """A's win rate at equal response lengths, a share in [0, 1].

    To be asked for where `length_overlap` suffices.

    Raises: ValueError if there is no comparison.
    """
    preferences_P = _preferences(comparisons, name)
    difference_P = np.array(
        [comparison.first_length - comparison.second_length for comparison in comparisons]
    )
    spread = float(difference_P.std())
    feature_P = np.tanh(difference_P / spread) if spread > 0 else np.zeros_like(difference_P)
    count = len(preferences_P)
    whole = fit_at_equal_lengths(preferences_P, feature_P, np.ones((1, count)))
    more_P, even_P = np.append(preferences_P, SHARE), np.append(feature_P, (0.0, 0.0))
    centre = float(fit_at_equal_lengths(more_P, even_P, np.ones((1, count + 2)))[0])
    counts_RP = _counts(count + 2, resamples // 2)
    # Each resample also with the two more exchanged, so that neither side is favoured by the draw.
    mirrored_RP = np.concatenate((counts_RP[:, :-2], counts_RP[:, :-3:-1]), axis=1)
    both_RP = np.concatenate((counts_RP, mirrored_RP))
    rates_R = fit_at_equal_lengths(more_P, even_P, both_RP)
    # Of resamples with two prompts more; the interval is for those that there are.
    effective = centre * (1 - centre) / float(rates_R.var()) * count / (count + 2)
    rate = float(whole[0])
    return EvaluationResult(
        name=name, value=rate, interval=exact_interval(rate, effective), count=count
    )


def fit_at_equal_lengths(
    preferences_P: np.ndarray, feature_P: np.ndarray, counts_RP: np.ndarray
) -> np.ndarray:
    """sigmoid(theta) of the fit to each resample, by Newton's method; shape (R,).

    `preferences_P` are in [0, 1], `feature_P` is the tanh of the model above, and `counts_RP` says
    how often each resample has each prompt.
    """
    from scipy.special import expit

    total_R = counts_RP.sum(axis=1)
    mean_R = np.clip(counts_RP @ preferences_P / total_R, expit(-LARGEST_LOGIT), None)
    mean_R = np.minimum(mean_R, expit(LARGEST_LOGIT))
    theta_R = np.log(mean_R / (1 - mean_R))
    phi_R = np.zeros_like(theta_R)
    square_P = feature_P * feature_P
    for _ in range(NEWTON_STEPS):
        fitted_RP = expit(theta_R[:, None] + phi_R[:, None] * feature_P)
        residual_RP = counts_RP * (preferences_P - fitted_RP)
        weight_RP = counts_RP * fitted_RP * (1 - fitted_RP)
        slope_theta_R = residual_RP.sum(axis=1)
        slope_phi_R = residual_RP @ feature_P - PRIOR_PRECISION * phi_R
        # The negative Hessian [[a, b], [b, c]]; the 1e-12 keeps its determinant above 0.
        a_R = weight_RP.sum(axis=1) + 1e-12
        b_R = weight_RP @ feature_P
        c_R = weight_RP @ square_P + PRIOR_PRECISION
        determinant_R = a_R * c_R - b_R * b_R
        step_theta_R = (c_R * slope_theta_R - b_R * slope_phi_R) / determinant_R
        step_phi_R = (a_R * slope_phi_R - b_R * slope_theta_R) / determinant_R
        # A damped step: far from the optimum Newton's own may run away.
        scale_R = np.minimum(1.0, 2.0 / np.maximum(np.abs(step_theta_R), np.abs(step_phi_R) + 1e-9))
        theta_R = np.clip(theta_R + scale_R * step_theta_R, -LARGEST_LOGIT, LARGEST_LOGIT)
        phi_R = phi_R + scale_R * step_phi_R
        if max(np.abs(step_theta_R).max(), np.abs(step_phi_R).max()) < 1e-9:
            break
    return expit(theta_R)


def _preferences(comparisons: Sequence[ComparedAnswers], name: str) -> np.ndarray:
    if not comparisons:
        raise ValueError(f"{name}: there is no prompt that both sides were judged on")
    preferences_P = np.array(
        [comparison.preference for comparison in comparisons], dtype=np.float64
    )
    assert ((preferences_P >= 0) & (preferences_P <= 1)).all(), "a preference is a share"
    return preferences_P


def _counts(prompts: int, resamples: int) -> np.ndarray:
    """How often each resample has each prompt; shape (R, P), the same for the same P."""
    generator = np.random.default_rng(prompts)
    return generator.multinomial(prompts, np.full(prompts, 1 / prompts), resamples).astype(float)
