"""Scores from comparisons: Bradley-Terry with a Gaussian prior.

With `B_mn` the wins of m over n, the scores maximise

    sum_mn B_mn log sigmoid(e_m - e_n)  -  prior / 2 · sum_m e_m².

The paper takes the maximum of the first term alone, which is infinite for a response that wins or
loses everything, and undetermined between groups that never met. The second term is the log density
of N(0, 1/prior) on each score: all scores are finite, their mean is 0, and with a `prior` that is
small beside the wins they are close to the paper's wherever those exist.

Array shapes: M and N count responses.
"""

from __future__ import annotations

from math import inf, log1p

import numpy as np

SMALLEST_PRIOR = 1e-4
"""A weaker one would be lost in the rounding of the wins; down to it scores are exact to 1e-10."""
DONE = 1e-12
"""A Newton step below this changes nothing."""
NEAR = 1e-6
"""Steps below this shrink quadratically; one that does not is rounding."""
MAX_STEPS = 1000


def bradley_terry(wins_MN: np.ndarray, prior: float) -> np.ndarray:
    """The scores, shape (M,), mean 0, in units of log odds.

    `wins_MN[m, n]` says how often m won against n; halves and weights are fine. The objective is
    strictly concave, and Newton steps shortened by `log(1 + d) / d`, with d the widest change of a
    difference, converge from everywhere (Sun and Tran-Dinh 2019, generalised self-concordance).
    """
    assert prior >= SMALLEST_PRIOR, prior
    if len(wins_MN) < 2:
        return np.zeros(len(wins_MN))
    met_MN = wins_MN + wins_MN.T
    scores_M = np.zeros(len(wins_MN))
    last = inf
    for _ in range(MAX_STEPS):
        lost_MN = _sigmoid(scores_M[None, :] - scores_M[:, None])
        gains_MN = wins_MN * lost_MN
        gradient_M = gains_MN.sum(1) - gains_MN.sum(0) - prior * scores_M
        curvature_MN = met_MN * lost_MN * lost_MN.T
        hessian_MN = np.diag(curvature_MN.sum(1) + prior) - curvature_MN
        step_M = np.linalg.solve(hessian_MN, gradient_M)
        width = float(np.ptp(step_M))
        if width < DONE or NEAR > last <= width:
            return scores_M - scores_M.mean()
        scores_M += step_M * (log1p(width) / width)
        last = width
    raise AssertionError(f"no convergence in {MAX_STEPS} steps: {wins_MN.tolist()}, prior {prior}")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0, -x))
