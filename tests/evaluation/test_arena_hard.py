"""Arena-Hard's score and its two intervals, against computations of their own."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from forethought.evaluation.arena_hard.arena_files import read_labels, read_questions
from forethought.evaluation.arena_hard.arena_score import (
    BATTLES,
    ArenaHardScore,
    IntervalKind,
    ModelLabels,
    battles,
    score_labels,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
CHANCES = {
    "strong": (0.02, 0.1, 0.2, 0.43, 0.25),
    "even": (0.1, 0.25, 0.3, 0.25, 0.1),
    "weak": (0.3, 0.4, 0.1, 0.15, 0.05),
}
"""How often a judge gives each label in game 1, where the model is B."""


def labels_of(model, seed, questions=300, missing=0.0):
    """Verdicts of a judge that is mostly of one mind in both games."""
    rng = np.random.default_rng(seed)
    first = rng.choice(5, questions, p=CHANCES[model])
    again = rng.choice(5, questions, p=CHANCES[model])
    second = 4 - np.where(rng.random(questions) < 0.6, first, again)
    lost = rng.random((questions, 2)) < missing
    return ModelLabels(
        model=model,
        games={
            f"q{place}": (
                None if lost[place, 0] else LABELS[first[place]],
                None if lost[place, 1] else LABELS[second[place]],
            )
            for place in range(questions)
        },
    )


def one_by_one(labels):
    """Wins of the model and battles, written down label by label."""
    won = fought = 0.0
    for first, second in labels.games.values():
        for label, own in ((first, "B"), (second, "A")):
            if label is None:
                continue
            weight = 3 if ">>" in label else 1
            fought += weight
            if "=" in label:
                won += 0.5
            elif label[0] == own:
                won += weight
    return won, fought


@pytest.mark.parametrize(
    ("games", "expected"),
    [
        (("A>>B", None), [0, 0, 0]),
        (("A>B", None), [0]),
        (("A=B", None), [0.5]),
        (("B>A", None), [1]),
        (("B>>A", None), [1, 1, 1]),
        ((None, "A>>B"), [1, 1, 1]),
        ((None, "A>B"), [1]),
        ((None, "A=B"), [0.5]),
        ((None, "B>A"), [0]),
        ((None, "B>>A"), [0, 0, 0]),
        (("A>B", "A>>B"), [0, 1, 1, 1]),
        ((None, None), []),
    ],
)
def test_battles_of_a_question(games, expected):
    assert list(battles(games)) == expected


@pytest.mark.parametrize("model", CHANCES)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_score_is_the_weighted_share_of_wins(model, missing):
    labels = labels_of(model, seed=3, missing=missing)
    won, fought = one_by_one(labels)
    games = [label for pair in labels.games.values() for label in pair]
    score = score_labels(labels)
    assert score.score == pytest.approx(100 * won / fought, abs=1e-9)
    assert score.n_battles == fought
    assert score.n_missing == games.count(None)
    assert score.n_games == len(games) - games.count(None)
    assert score.n_questions == sum(pair != (None, None) for pair in labels.games.values())
    assert sum(score.verdicts.values()) == score.n_games
    assert score.interval[0] < score.score < score.interval[1]


def test_bradley_terry_over_all_models_gives_the_same_scores():
    every = [labels_of(model, seed) for seed, model in enumerate(CHANCES)]
    wins = np.array([one_by_one(labels) for labels in every])

    def against_likelihood(strengths):
        # The baseline is 0; each model meets only it.
        return -np.sum(
            wins[:, 0] * -np.logaddexp(0, -strengths)
            + (wins[:, 1] - wins[:, 0]) * -np.logaddexp(0, strengths)
        )

    fit = minimize(against_likelihood, np.zeros(len(every)), method="BFGS", tol=1e-10)
    predicted = 100 / (1 + np.exp(-fit.x))
    scores = [score_labels(labels).score for labels in every]
    assert scores == pytest.approx(predicted.tolist(), abs=1e-4)
    assert scores[0] > scores[1] > scores[2]


@given(st.lists(st.tuples(*[st.none() | st.sampled_from(LABELS)] * 2), min_size=1, max_size=12))
def test_changing_the_sides_mirrors_the_score(pairs):
    games = {str(place): pair for place, pair in enumerate(pairs)}
    # Whoever was the baseline is now the model: its game as A comes second.
    swapped = {name: (second, first) for name, (first, second) in games.items()}
    if all(pair == (None, None) for pair in pairs):
        with pytest.raises(ValueError, match="has a verdict"):
            score_labels(ModelLabels(model="m", games=games))
        return
    one = score_labels(ModelLabels(model="m", games=games), rounds=10)
    other = score_labels(ModelLabels(model="b", games=swapped), rounds=10)
    assert one.score + other.score == pytest.approx(100)
    assert list(one.verdicts.values()) == list(other.verdicts.values())[::-1]


def test_the_published_interval_is_the_bootstrap_of_its_rows():
    labels = labels_of("even", seed=5)
    rows = np.array([battle for games in labels.games.values() for battle in battles(games)])
    rng = np.random.default_rng(1)
    drawn = [100 * rng.choice(rows, len(rows)).mean() for _ in range(4000)]
    score = score_labels(labels, interval="published")
    assert score.interval == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.3)
    assert score.interval_kind == "published"


def test_the_questions_interval_is_the_bootstrap_of_questions():
    labels = labels_of("even", seed=5)
    every = [battles(games) for games in labels.games.values()]
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        again = [one for place in rng.integers(0, len(every), len(every)) for one in every[place]]
        drawn.append(100 * sum(again) / len(again))
    score = score_labels(labels)
    assert score.interval == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.4)
    assert score.interval_kind == "questions"


def test_the_same_seed_gives_the_same_interval_and_order_does_not_matter():
    labels = labels_of("even", seed=7)
    turned = ModelLabels(model="even", games=dict(reversed(list(labels.games.items()))))
    assert score_labels(labels) == score_labels(labels)
    assert score_labels(turned) == score_labels(labels)
    assert score_labels(labels, seed=1).interval != score_labels(labels).interval
    assert score_labels(labels, seed=1).interval == pytest.approx(
        score_labels(labels).interval, abs=0.5
    )


def simulated(rng, questions, sets):
    """Labels of both games of many data sets: a question's own difficulty moves both.

    Shape (sets, questions, 2), numbers into LABELS.
    """
    own = rng.normal(-0.2, 1, (sets, questions, 1))
    seen = own + rng.normal(0, 0.6, (sets, questions, 2))
    # Every second verdict or so is a significant one.
    label = np.digitize(seen, (-0.8, -0.2, 0.2, 0.8))
    label[..., 1] = 4 - label[..., 1]
    return label


def test_the_questions_interval_covers_the_truth_and_the_published_one_does_not():
    rng = np.random.default_rng(20240419)
    worth = np.array([[0, 0, 0.5, 1, 3], [3, 1, 0.5, 0, 0]])
    many = simulated(rng, 1_000_000, 1)[0]
    won = worth[0, many[:, 0]] + worth[1, many[:, 1]]
    fought = np.array([3, 1, 1, 1, 3])[many].sum(axis=1)
    truth = 100 * won.sum() / fought.sum()

    covered: dict[IntervalKind, int] = {"questions": 0, "published": 0}
    names = np.array(LABELS, dtype=object)
    sets = 1000
    for label in names[simulated(rng, 250, sets)]:
        games = {str(place): (pair[0], pair[1]) for place, pair in enumerate(label)}
        labels = ModelLabels(model="m", games=games)
        for kind in covered:
            low, high = score_labels(labels, interval=kind, rounds=1000).interval
            covered[kind] += low <= truth <= high
    assert covered["questions"] / sets == pytest.approx(0.95, abs=0.02)
    assert covered["published"] / sets < 0.75


def test_where_all_verdicts_are_alike_there_is_no_width():
    games = {str(place): ("A>B", "B>A") for place in range(50)}
    score = score_labels(ModelLabels(model="m", games=games))
    assert (score.score, score.interval) == (0.0, (0.0, 0.0))


def test_a_label_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"m, question q1: 'A<B' is no label; the labels are A>>B"):
        ModelLabels(model="m", games={"q1": ("A<B", None)})


def test_an_interval_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="interval: 'wald' is neither questions nor published"):
        score_labels(labels_of("even", 0), interval="wald")  # pyright: ignore[reportArgumentType]


def test_the_score_as_json_and_as_a_result():
    score = score_labels(labels_of("even", 0))
    value = score.as_json()
    assert value["score"] == score.score
    assert value["interval"] == list(score.interval)
    assert set(value) == set(ArenaHardScore.__slots__)
    result = score.as_result()
    assert (result.name, result.value, result.count) == ("arena_hard", score.score, 300)


def test_every_label_has_a_worth():
    assert tuple(BATTLES) == LABELS


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data, with published labels, is not there")
def test_the_published_model_is_reproduced():
    """Arena-Hard-Auto v0.1 (Apache-2.0), leaderboard of 2024-07-31: 37.9, from 35.6 to 40.36."""
    questions = read_questions(DATA / "prompts" / "arena_hard_v0.1_question.jsonl")
    [labels] = read_labels(
        DATA / "arena_hard" / "labels_v0.1.json", [question.question_id for question in questions]
    )
    own, published = score_labels(labels), score_labels(labels, interval="published")
    assert labels.model == "gpt-4-0613"
    assert own.score == published.score == pytest.approx(37.9019, abs=0.006)
    assert (own.n_games, own.n_battles, own.n_missing) == (1000, 1244, 0)
    # The published one is of 100 rounds, whose percentiles vary by some tenths.
    assert published.interval == pytest.approx((35.6, 40.36), abs=0.5)
    assert own.interval == pytest.approx((33.97, 41.96), abs=0.1)
