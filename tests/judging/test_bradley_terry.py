"""Bradley-Terry scores: the optimum of what is documented, and what follows from it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize

from forethought.judging.llm.bradley_terry import SMALLEST_PRIOR, bradley_terry

SETTINGS = settings(max_examples=60, deadline=None)
PRIORS = st.sampled_from([SMALLEST_PRIOR, 1e-2, 0.1, 1.0, 10.0])


@st.composite
def tournaments(draw: st.DrawFn) -> np.ndarray:
    """Wins in halves and threes; many pairs never met, so not all are connected."""
    count = draw(st.integers(1, 12))
    wins = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0])
    wins_MN = draw(arrays.arrays(np.float64, (count, count), elements=wins))
    np.fill_diagonal(wins_MN, 0)
    return wins_MN


def loss(scores_M: np.ndarray, wins_MN: np.ndarray, prior: float) -> tuple[float, np.ndarray]:
    """The negative objective as written in the module, and its gradient, for scipy."""
    gaps_MN = scores_M[:, None] - scores_M[None, :]
    value = (wins_MN * np.logaddexp(0, -gaps_MN)).sum() + prior / 2 * (scores_M**2).sum()
    pull_MN = wins_MN / (1 + np.exp(gaps_MN))
    return float(value), prior * scores_M - pull_MN.sum(1) + pull_MN.sum(0)


def zermelo(wins_MN: np.ndarray) -> np.ndarray:
    """The maximum-likelihood scores by the classical iteration, without a prior."""
    strength_M = np.ones(len(wins_MN))
    met_MN = wins_MN + wins_MN.T
    for _ in range(20_000):
        shared_MN = met_MN / (strength_M[:, None] + strength_M[None, :])
        strength_M = wins_MN.sum(1) / shared_MN.sum(1)
        strength_M /= np.exp(np.log(strength_M).mean())
    return np.log(strength_M)


@SETTINGS
@given(tournaments(), st.sampled_from([0.01, 0.1, 1.0, 10.0]))
def test_it_is_the_optimum_that_scipy_finds(wins_MN: np.ndarray, prior: float) -> None:
    found = minimize(
        loss,
        np.zeros(len(wins_MN)),
        (wins_MN, prior),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-10, "maxiter": 10_000},
    )
    scores_M = bradley_terry(wins_MN, prior)
    assert loss(scores_M, wins_MN, prior)[0] <= found.fun + 1e-12 * max(1, abs(found.fun))
    np.testing.assert_allclose(scores_M, found.x, atol=1e-5)


@SETTINGS
@given(tournaments(), PRIORS)
def test_it_has_converged_to_1e_10(wins_MN: np.ndarray, prior: float) -> None:
    """One Newton step more, its gradient in extended precision, changes no score by more."""
    scores_M = bradley_terry(wins_MN, prior).astype(np.longdouble)
    lost_MN = 1 / (1 + np.exp(scores_M[:, None] - scores_M[None, :]))
    pull_MN = wins_MN * lost_MN
    gradient_M = pull_MN.sum(1) - pull_MN.sum(0) - prior * scores_M
    curvature_MN = (wins_MN + wins_MN.T) * lost_MN * lost_MN.T
    hessian_MN = np.diag(curvature_MN.sum(1) + prior) - curvature_MN
    step_M = np.linalg.solve(hessian_MN.astype(float), gradient_M.astype(float))
    assert np.abs(step_M).max() < 1e-10


@SETTINGS
@given(tournaments(), PRIORS, st.randoms())
def test_a_permutation_of_responses_permutes_the_scores(wins_MN, prior, random) -> None:
    order = list(range(len(wins_MN)))
    random.shuffle(order)
    permuted_MN = wins_MN[np.ix_(order, order)]
    np.testing.assert_allclose(
        bradley_terry(permuted_MN, prior), bradley_terry(wins_MN, prior)[order], atol=1e-9
    )


@SETTINGS
@given(tournaments(), PRIORS)
def test_swapping_wins_and_losses_turns_the_signs(wins_MN: np.ndarray, prior: float) -> None:
    scores_M = bradley_terry(wins_MN, prior)
    np.testing.assert_allclose(bradley_terry(wins_MN.T, prior), -scores_M, atol=1e-9)
    assert abs(scores_M.sum()) < 1e-9
    assert np.isfinite(scores_M).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_weak_prior_gives_the_papers_maximum_likelihood(seed: int) -> None:
    """Every response beats every other sometimes, so that the likelihood has a maximum."""
    wins_MN = np.random.default_rng(seed).integers(1, 6, (8, 8)).astype(float)
    np.fill_diagonal(wins_MN, 0)
    np.testing.assert_allclose(bradley_terry(wins_MN, SMALLEST_PRIOR), zermelo(wins_MN), atol=1e-4)


def test_two_responses_have_a_score_in_closed_form() -> None:
    """d log-odds, n wins of n: the gradient n · sigmoid(-2e) - prior · e is 0."""
    [won, lost] = bradley_terry(np.array([[0.0, 2.0], [0.0, 0.0]]), 0.1)
    assert won == -lost
    assert 2 / (1 + np.exp(2 * won)) == pytest.approx(0.1 * won, rel=1e-12)


@pytest.mark.parametrize("count", [2, 8, 64])
@pytest.mark.parametrize("prior", [SMALLEST_PRIOR, 0.1, 1e6])
def test_one_that_wins_everything_has_a_finite_score_above_the_rest(count: int, prior) -> None:
    wins_MN = np.zeros((count, count))
    wins_MN[0, 1:] = 20
    scores_M = bradley_terry(wins_MN, prior)
    assert scores_M[0] > 0 > scores_M[1:].max()
    assert np.ptp(scores_M[1:]) < 1e-9


def test_a_clean_order_is_kept_at_the_largest_size() -> None:
    scores_M = bradley_terry(np.triu(np.full((64, 64), 2.0), 1), SMALLEST_PRIOR)
    assert (np.diff(scores_M) < 0).all()


def test_contradictions_ties_and_circles_are_exactly_equal() -> None:
    for wins in ([[0, 1], [1, 0]], [[0, 0.5], [0.5, 0]], [[0, 2, 0], [0, 0, 2], [2, 0, 0]]):
        assert bradley_terry(np.array(wins, dtype=float), 0.1).tolist() == [0.0] * len(wins)


def test_groups_that_never_met_have_the_same_mean() -> None:
    wins_MN = np.zeros((4, 4))
    wins_MN[0, 1] = wins_MN[2, 3] = 2
    scores_M = bradley_terry(wins_MN, 0.1)
    np.testing.assert_allclose(scores_M[:2], scores_M[2:], atol=1e-12)


def test_none_and_one() -> None:
    assert bradley_terry(np.zeros((0, 0)), 0.1).tolist() == []
    assert bradley_terry(np.zeros((1, 1)), 0.1).tolist() == [0.0]
