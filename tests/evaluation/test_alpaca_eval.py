"""Annotations in both layouts, the tables beside them, and the figures that come of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from forethought.evaluation.alpaca_eval.alpaca_files import (
    read_annotations,
    read_difficulty,
    read_gamed,
)
from forethought.evaluation.alpaca_eval.length_control import FittedWeights, predictions
from forethought.evaluation.alpaca_eval.win_rates import (
    as_json,
    as_results,
    score,
    score_annotations,
)

SHARED = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval"
COUNT = 40


def drawn(seed=0, count=COUNT):
    """Preferences in 1..2 and both lengths."""
    random = np.random.default_rng(seed)
    preferences = (1 + expit(random.normal(-0.5, 2, count))).tolist()
    return preferences, *(random.integers(20, 900, (2, count)).tolist())


def records(seed=0, count=COUNT, model="ours", baseline="base"):
    return [
        {
            "instruction": f"Instruction {place}",
            "output_1": "é" * first,
            "generator_1": baseline,
            "output_2": "x" * second,
            "generator_2": model,
            "dataset": "odd" if place % 2 else "even",
            "preference": preference,
        }
        for place, (preference, first, second) in enumerate(zip(*drawn(seed, count), strict=True))
    ]


def compact(*seeds):
    _, first, _ = drawn(seeds[0])
    models = {}
    for seed in seeds:
        preferences, own, second = drawn(seed)
        models[f"model {seed}"] = {
            "preference": preferences,
            "len_1": None if own == first else own,
            "len_2": second,
            "canon": None,
        }
    datasets = ["odd" if place % 2 else "even" for place in range(COUNT)]
    return {"note": "made up", "dataset": datasets, "len_1": first, "models": models}


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def difficulty_file(path, count=COUNT, header="index,instruction_difficulty"):
    random = np.random.default_rng(7)
    rows = [f"{place},{value:.6f}" for place, value in enumerate(random.normal(0, 1, count))]
    return written(path, "\n".join([header, *rows]) + "\n")


def gamed_file(path, count=60):
    random = np.random.default_rng(8)
    lines = ["model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    for place in range(count):
        preference, delta, difficulty = random.uniform(0, 1), *random.normal(0, 1, 2)
        lines.append(f"concise,{preference},{place},{delta},{difficulty},False")
    return written(path, "\n".join(lines))


@pytest.fixture
def files(tmp_path):
    return {
        "path": written(tmp_path / "annotations.json", records()),
        "difficulty": difficulty_file(tmp_path / "difficulty.csv"),
        "gamed": gamed_file(tmp_path / "gamed.csv"),
    }


def scored(path, **options):
    quick: dict[str, Any] = {"resamples": 3}
    [one] = score_annotations(path, **(quick | options))
    return one


# Figures.


def test_figures_by_their_definitions(tmp_path):
    content = records(count=8)
    for record, preference in zip(content, [1, 2, 1.5, 1.2, 1.9, None, 0, 2.0], strict=True):
        record["preference"] = preference
    one = scored(written(tmp_path / "annotations.json", content))
    # Without the failed one, 0 being a draw: 0, 1, 0.5, 0.2, 0.9, 0.5, 1.
    assert one.win_rate == pytest.approx(100 * 4.1 / 7, abs=1e-12)
    deviations = [0, 1, 0.5, 0.2, 0.9, 0.5, 1]
    assert one.standard_error == pytest.approx(100 * stats.sem(deviations), abs=1e-12)
    # Shares whose variance is that of these and of one more at each end.
    more = np.array([*deviations, 0, 1])
    effective = 7 * more.mean() * (1 - more.mean()) / more.var()
    yes, no = effective * 4.1 / 7, effective * 2.9 / 7
    ends = (stats.beta.ppf(0.025, yes, no + 1), stats.beta.ppf(0.975, yes + 1, no))
    assert one.win_rate_interval == pytest.approx([100 * end for end in ends], abs=1e-9)
    assert (one.n_wins, one.n_wins_base, one.n_draws) == (3, 2, 2)
    assert (one.n_total, one.n_missing) == (7, 1)
    assert one.discrete_win_rate == pytest.approx(400 / 7)
    assert one.avg_length == sum(len(record["output_2"]) for record in content) // 8
    assert one.by_dataset == pytest.approx({"even": 100 * 1.9 / 4, "odd": 100 * 2.2 / 3})


def test_json_has_the_keys_and_only_json_values(files):
    content = as_json(scored(**files))
    assert set(content) >= {
        "win_rate",
        "standard_error",
        "n_wins",
        "n_wins_base",
        "n_draws",
        "avg_length",
        "length_controlled_win_rate",
        "C",
        "glm",
    }
    again = json.loads(json.dumps(content, allow_nan=False))
    assert again["weights"] == content["weights"]
    assert all(isinstance(again[name], int) for name in ("n_wins", "n_wins_base", "n_draws"))


def test_results_carry_both_rates_and_the_parts(files):
    [annotations] = read_annotations(files["path"])
    one = score(annotations, difficulty=read_difficulty(files["difficulty"]))
    rate, controlled, even, odd = as_results(annotations, one)
    assert (rate.name, rate.value, rate.count) == ("win_rate", one.win_rate, COUNT)
    assert (controlled.name, controlled.value, controlled.interval) == (
        "length_controlled_win_rate",
        one.length_controlled_win_rate,
        one.length_controlled_interval,
    )
    assert (even.name, even.category, even.value) == ("win_rate", "even", one.by_dataset["even"])
    assert (odd.category, odd.count) == ("odd", COUNT // 2)


def test_which_model_is_fitted(files):
    full = scored(**files)
    assert (full.glm, full.gamed_rows) == ("full", 60)
    assert full.weights is not None
    assert full.weights.difficulty is not None
    bare = scored(files["path"])
    assert (bare.glm, bare.gamed_rows) == ("minimal", 0)
    assert bare.weights is not None
    assert bare.weights.difficulty is None
    alone = scored(files["path"], difficulty=files["difficulty"])
    assert (alone.glm, alone.gamed_rows) == ("full", 0)
    tied = scored(files["path"], gamed=files["gamed"])
    assert (tied.glm, tied.gamed_rows) == ("minimal", 60)
    assert len({one.length_controlled_win_rate for one in (full, bare, alone, tied)}) == 4


def test_a_c_that_is_given_is_used(files):
    assert scored(**files, C=0.5).C == 0.5


def test_a_model_that_is_its_own_baseline_has_fifty(tmp_path):
    content = records(model="base")
    one = scored(written(tmp_path / "annotations.json", content))
    assert (one.length_controlled_win_rate, one.length_controlled_interval) == (50, (50, 50))
    assert (one.C, one.glm, one.weights) == (None, "baseline", None)
    assert one.win_rate != 50


def test_records_that_stand_there_twice_are_refused_and_not_counted_twice(tmp_path):
    path = written(tmp_path / "annotations.json", records(count=40) + records(count=5))
    words = r"record 40: instruction is that of 0 again \(4 more stand there twice\); .* keep one"
    with pytest.raises(ValueError, match=words):
        scored(path)
    rows = [record | {"index": min(place, 38)} for place, record in enumerate(records(count=40))]
    with pytest.raises(ValueError, match="record 39: index is that of 38 again; each would count"):
        scored(written(tmp_path / "places.json", rows))
    content = compact(0)
    content["models"]["model 0"]["canon"] = [*range(COUNT - 1), 0]
    with pytest.raises(ValueError, match=rf"entry {COUNT - 1}: canon is that of 0 again"):
        scored(written(tmp_path / "compact.json", content))


def test_a_compact_file_that_names_no_baseline_does_not_fit_it_against_itself(tmp_path):
    content = compact(0, 3)
    content["models"]["base"] = {
        "preference": [1.5] * COUNT,
        "len_1": None,
        "len_2": content["len_1"],
        "canon": None,
    }
    found = {
        annotation.model: annotation
        for annotation in score_annotations(
            written(tmp_path / "compact.json", content), resamples=3
        )
    }
    assert (found["base"].glm, found["base"].length_controlled_win_rate) == ("baseline", 50)
    assert found["base"].win_rate == 50
    assert found["model 3"].glm == "minimal"
    content["models"]["base"]["preference"] = [1.4] * COUNT
    path = written(tmp_path / "odd.json", content)
    with pytest.raises(ValueError, match=r"base: its outputs are all as long .* name the baseline"):
        scored(path, model="base")
    named = written(tmp_path / "named.json", content | {"baseline": "base"})
    assert scored(named, model="base").glm == "baseline"


# Layouts.


def test_both_layouts_give_the_same(tmp_path, files):
    full = scored(**files)
    both = score_annotations(
        written(tmp_path / "compact.json", compact(0, 3)),
        difficulty=files["difficulty"],
        gamed=files["gamed"],
        resamples=3,
    )
    assert [one.model for one in both] == ["model 0", "model 3"]
    first = as_json(both[0]) | {"model": "ours", "baseline": "base"}
    assert first == as_json(full)
    assert both[1].win_rate != full.win_rate


def test_one_of_several_models(tmp_path):
    path = written(tmp_path / "compact.json", compact(0, 3, 4))
    assert scored(path, model="model 3").model == "model 3"
    with pytest.raises(ValueError, match=r"model: gpt is not in .*model 0, model 3, model 4"):
        score_annotations(path, model="gpt")


def test_missing_rows_shift_the_difficulty_and_not_the_lengths(tmp_path):
    kept = [place for place in range(COUNT) if place not in (3, 11)]
    content = compact(0)
    own = content["models"]["model 0"]
    shorter = {
        "preference": [own["preference"][place] for place in kept],
        "len_2": [own["len_2"][place] for place in kept],
        "len_1": None,
        "canon": kept,
    }
    path = written(tmp_path / "compact.json", content | {"models": {"short": shorter}})
    [found] = read_annotations(path)
    assert found.places == tuple(range(COUNT - 2))
    assert found.baseline_lengths == tuple(content["len_1"][place] for place in kept)
    assert found.datasets[3] == "even"
    # The records of the other layout, with the same rows missing, say the same.
    rows = [records()[place] for place in kept]
    [other] = read_annotations(written(tmp_path / "annotations.json", rows))
    assert (found.places, found.baseline_lengths, found.lengths, found.datasets) == (
        other.places,
        other.baseline_lengths,
        other.lengths,
        other.datasets,
    )


def test_records_may_name_their_place(tmp_path, files):
    rows = [record | {"index": place} for place, record in enumerate(records())]
    backwards = written(tmp_path / "backwards.json", rows[::-1])
    [found] = read_annotations(backwards)
    assert found.places == tuple(range(COUNT))[::-1]
    one = scored(backwards, difficulty=files["difficulty"], C=2.0)
    same = scored(files["path"], difficulty=files["difficulty"], C=2.0)
    assert one.length_controlled_win_rate == pytest.approx(
        same.length_controlled_win_rate, abs=0.05
    )


def test_lengths_are_characters(tmp_path):
    content = records(count=6)
    content[0] |= {"output_1": "naïve ☕ 🙂", "output_2": ""}
    [found] = read_annotations(written(tmp_path / "annotations.json", content))
    assert (found.baseline_lengths[0], found.lengths[0]) == (9, 0)


@pytest.mark.parametrize("text", ["null", "NaN"])
def test_a_failed_annotation_has_no_preference(tmp_path, text):
    content = json.dumps(records(count=6))
    first = content.index('"preference": ') + len('"preference": ')
    content = content[:first] + text + content[content.index("}", first) :]
    [found] = read_annotations(written(tmp_path / "annotations.json", content))
    assert found.preferences[0] is None
    assert None not in found.preferences[1:]


def test_the_packages_own_tables_are_read(tmp_path):
    # It saves a series, whose index has no name, and looks difficulties up among the gamed rows.
    path = difficulty_file(tmp_path / "a.csv", header=",instruction_difficulty")
    assert read_difficulty(path) == read_difficulty(difficulty_file(tmp_path / "b.csv"))
    lines = ["model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    lines += [f"concise,0.3,{place},1.5,{place}.5,False" for place in range(3)]
    lines += [f"verbose,,{place},-1.5,{place}.5,False" for place in range(3)]
    path = written(tmp_path / "df_gamed.csv", "\r\n".join(lines))
    assert read_difficulty(path) == {0: 0.5, 1: 1.5, 2: 2.5}
    gamed = read_gamed(path, difficulty=True)
    assert gamed.preference_G.tolist() == [0.3] * 3
    assert gamed.difficulty_G is not None
    assert gamed.difficulty_G.tolist() == [0.5, 1.5, 2.5]
    assert read_gamed(path, difficulty=False).difficulty_G is None


# Wrong inputs.


def changed(**fields):
    return [records(count=6)[0] | fields, *records(count=6)[1:]]


def without(field):
    return [{k: v for k, v in record.items() if k != field} for record in records(count=6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(preference=2.01), r"record 0: preference: 2.01 is not in 1..2; 1 is for the base"),
        (changed(preference=0.5), r"preference: 0.5 is not in 1..2"),
        (changed(preference=-1), r"preference: -1 is not in 1..2"),
        (changed(preference="2"), r"preference: '2' is not in 1..2"),
        (changed(preference=True), r"preference: True is not in 1..2"),
        (changed(preference=float("inf")), r"preference: inf is not in 1..2"),
        (without("preference"), r"record 0 has no preference; give a number from 1 to 2, or null"),
        (without("output_2"), r"record 0: output_2: None is no text; its length is needed"),
        (changed(output_1=None), r"record 0: output_1: None is no text"),
        (
            changed(generator_2="b"),
            r"generator_2 is 'b', 'ours'; a file of records is of one model",
        ),
        (without("generator_1"), r"generator_1 is None"),
        ([3], r"record 0 is no object but 3"),
        (
            changed(index=0)[:1] + [record | {"index": 1.5} for record in records(count=2)],
            r"index: 1.5",
        ),
        ([], r"holds no annotations; give the package's annotations.json"),
        ({}, r"holds no annotations"),
        ("text", r"is not JSON"),
        ('"text"', r"holds no annotations"),
        ({"models": {}}, r"models is empty"),
        ({"models": {"a": 3}}, r"models: a is no object but 3; give it preference and len_2"),
        ({"models": {"a": {}}}, r"models: a: preference is None; give a list"),
        ({"models": {"a": {"preference": [1.5]}}}, r"len_1 is None; give a list"),
        ({"len_1": [3], "models": {"a": {"preference": [1.5]}}}, r"a: len_2 is None"),
        (
            {"len_1": [3], "models": {"a": {"preference": [1.5], "len_2": [3, 4]}}},
            r"len_2 has 2 entries, preference has 1",
        ),
        (
            {"len_1": [3], "models": {"a": {"preference": [1.5, 1.2], "len_2": [3, 4]}}},
            r"len_1: row 1: None is no length",
        ),
        (
            {"len_1": [3], "models": {"a": {"preference": [1.5], "len_2": [3], "canon": [1]}}},
            r"len_1: row 1: None is no length",
        ),
        (
            {"len_1": [3], "models": {"a": {"preference": [1.5], "len_2": [-3]}}},
            r"len_2: row 0: -3 is no length",
        ),
        (
            {"len_1": [3], "models": {"a": {"preference": [3], "len_2": [3]}}},
            r"models: a: row 0: preference: 3 is not in 1..2",
        ),
    ],
)
def test_annotations_that_cannot_be_read(tmp_path, content, message):
    path = written(tmp_path / "annotations.json", content)
    with pytest.raises(ValueError, match=message) as caught:
        score_annotations(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("index,other\n0,1\n", "there is no column instruction_difficulty; its columns are index,"),
        ("other,instruction_difficulty\n0,1\n", "there is no column index"),
        ("index,instruction_difficulty\n0,high\n", "line 2: instruction_difficulty: 'high' is no"),
        ("index,instruction_difficulty\n0,nan\n", "instruction_difficulty: 'nan' is no number"),
        ("index,instruction_difficulty\n0.5,1\n", "line 2: index: 0.5 is no whole number"),
        ("index,instruction_difficulty\n0,1\n0,2\n", "line 3: index: 0 .*another difficulty"),
        ("index,instruction_difficulty\n0\n", "line 2: it has not as many values as there are col"),
        ("index,instruction_difficulty\n0,1,2\n", "line 2: it has not as many values"),
        ("index,instruction_difficulty\n", "has no rows; give a CSV with a line of column names"),
        ("index,instruction_difficulty\n0,1\n", "39 annotations have no difficulty, the first at"),
    ],
)
def test_difficulties_that_cannot_be_used(files, tmp_path, content, message):
    path = written(tmp_path / "wrong.csv", content)
    with pytest.raises(ValueError, match=message):
        score_annotations(files["path"], difficulty=path)


GAMED = "preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GAMED + "1.5,0,0,False\n", "line 2: preference: 1.5 is not in 0..1; gamed rows count fro"),
        (GAMED + "0.5,0,0,True\n", "line 2: not_gamed_baseline: True is not False"),
        (GAMED + "0.5,x,0,False\n", "line 2: std_delta_len: 'x' is no number"),
        ("preference,std_delta_len\n0.5,0\n", "there is no column instruction_difficulty"),
        ("std_delta_len,instruction_difficulty\n0,0\n", "there is no column preference"),
        (GAMED + ",0,0,False\n", "has no row with a preference; leave the file out"),
    ],
)
def test_gamed_rows_that_cannot_be_used(files, tmp_path, content, message):
    path = written(tmp_path / "wrong.csv", content)
    with pytest.raises(ValueError, match=message):
        score_annotations(files["path"], difficulty=files["difficulty"], gamed=path)


def test_files_that_are_not_there(files, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match=r"missing cannot be read: No such file"):
        score_annotations(missing)
    with pytest.raises(ValueError, match=r"missing cannot be read: No such file"):
        score_annotations(files["path"], difficulty=missing)


@pytest.mark.parametrize(
    ("count", "message"),
    [(4, r"annotations.json: ours: .* 4 preferences are too few .* 5 folds"), (1, r"1 of 1 annot")],
)
def test_too_few_annotations(tmp_path, count, message):
    path = written(tmp_path / "annotations.json", records(count=count))
    with pytest.raises(ValueError, match=message):
        score_annotations(path)


# Published figures, where the data lie beside the checkout.

PUBLISHED = json.loads((SHARED / "expected.json").read_text())["models"] if SHARED.is_dir() else {}


@pytest.mark.skipif(not PUBLISHED, reason="AlpacaEval's data (CC BY-NC 4.0) are not in the project")
@pytest.mark.parametrize("model", sorted(PUBLISHED) or ["none"])
def test_published_figures(model):
    expected, official = PUBLISHED[model], PUBLISHED[model]["official"]
    tables = {
        "difficulty": SHARED / "instruction_difficulty.csv",
        "gamed": SHARED / "df_gamed_reconstructed.csv",
    }
    one = scored(SHARED / "annotations.json", model=model, **tables)
    for name in (
        "win_rate",
        "standard_error",
        "n_wins",
        "n_wins_base",
        "n_draws",
        "n_total",
        "discrete_win_rate",
        "avg_length",
    ):
        assert as_json(one)[name] == pytest.approx(official[name], abs=1e-6), name
    published = official["length_controlled_winrate"]
    assert pytest.approx(expected["pkg_cv_C"]) == one.C
    assert one.length_controlled_win_rate == pytest.approx(published, abs=1e-5)
    if official["lc_standard_error"] is not None:
        assert one.lc_standard_error == pytest.approx(official["lc_standard_error"], abs=1e-5)
    given = scored(SHARED / "annotations.json", model=model, C=expected["C_inferred"], **tables)
    assert given.length_controlled_win_rate == pytest.approx(
        expected["pkg_lc_at_C_inferred"], abs=1e-5
    )
    weights = expected["glm_weights_published"]
    difficulty = np.array(list(read_difficulty(tables["difficulty"]).values()))
    predicted = predictions(
        FittedWeights(length=0, difficulty=weights["difficulty"], constant=weights["bias"]),
        difficulty,
        len(difficulty),
    )
    assert 100 * predicted.mean() == pytest.approx(published, abs=1e-6)
