"""The benchmark's files in both published layouts, and those that are refused."""

import json

import pytest

from forethought.evaluation.arena_hard.arena_files import (
    read_answers,
    read_labels,
    read_questions,
    score_file,
)

OLD_QUESTION = {
    "question_id": "q1",
    "category": "arena-hard-v0.1",
    "cluster": "Tunes",
    "turns": [{"content": "Write a tune."}],
}
NEW_QUESTION = {"uid": "q1", "category": "arena-hard-v0.1", "prompt": "Write a tune."}
OLD_ANSWER = {
    "question_id": "q1",
    "answer_id": "a",
    "model_id": "gpt-4-0314",
    "choices": [{"index": 0, "turns": [{"content": "X: 1", "token_len": 3}]}],
}
NEW_ANSWER = {
    "uid": "q1",
    "model": "gpt-4-0314",
    "messages": [
        {"role": "user", "content": "Write a tune."},
        {"role": "assistant", "content": {"answer": "X: 1"}},
    ],
}


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def judgment(question_id="q1", model="m", games=({"score": "A>B"}, {"score": "B>>A"}), **more):
    return {"question_id": question_id, "model": model, "games": list(games), **more}


@pytest.mark.parametrize("record", [OLD_QUESTION, NEW_QUESTION])
def test_questions_of_both_layouts(tmp_path, record):
    second = {**record, next(iter(record)): "q2"}
    [one, other] = read_questions(lines(tmp_path / "question.jsonl", record, second))
    assert (one.question_id, one.text) == ("q1", "Write a tune.")
    assert other.question_id == "q2"


@pytest.mark.parametrize("record", [OLD_ANSWER, NEW_ANSWER])
def test_answers_of_both_layouts(tmp_path, record):
    more = {**record, next(iter(record)): "q2"}
    answers = read_answers(lines(tmp_path / "answers.jsonl", more, record), ["q1"])
    assert answers.model == "gpt-4-0314"
    assert answers.texts == {"q1": "X: 1"}


def test_a_line_separator_in_a_text_ends_no_line(tmp_path):
    record = {**NEW_QUESTION, "prompt": "one\u2028two"}
    path = tmp_path / "question.jsonl"
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert read_questions(path)[0].text == "one\u2028two"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "is empty"),
        ([{"question_id": "q1", "turns": []}], "line 1: it has 0 turns"),
        ([{"question_id": "q1", "turns": [{"content": "a"}, {"content": "b"}]}], "it has 2 turns"),
        ([{"turns": [{"content": "a"}]}], "line 1: question_id is missing"),
        ([OLD_QUESTION, ["no", "object"]], "line 2: it is no JSON object"),
        ([OLD_QUESTION, OLD_QUESTION], "line 2: question q1 stands there twice"),
        ([{"question_id": "q1", "turns": [{"content": 3}]}], r"turns\.0\.content: .*given: 3"),
    ],
)
def test_questions_that_are_refused(tmp_path, records, message):
    path = lines(tmp_path / "question.jsonl", *records)
    with pytest.raises(ValueError, match=message) as error:
        read_questions(path)
    assert "question.jsonl" in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl cannot be read"):
        read_questions(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([OLD_ANSWER], "lacks an answer to 1 of 2 questions: q2"),
        ([OLD_ANSWER, {**OLD_ANSWER, "question_id": "q2", "choices": []}], "lacks an answer to 1"),
        ([OLD_ANSWER, {**NEW_ANSWER, "uid": "q2", "model": "n"}], "answers of gpt-4-0314, n"),
        ([OLD_ANSWER, OLD_ANSWER], "line 2: question q1 stands there twice"),
        ([{**OLD_ANSWER, "choices": []}, OLD_ANSWER], "line 2: question q1 stands there twice"),
        ([{"question_id": "q1", "choices": []}], "model_id is missing"),
    ],
)
def test_answers_that_are_refused(tmp_path, records, message):
    path = lines(tmp_path / "answers.jsonl", *records)
    with pytest.raises(ValueError, match=message) as error:
        read_answers(path, ["q1", "q2"])
    assert "answers.jsonl" in str(error.value)


def test_labels_of_several_models(tmp_path):
    path = tmp_path / "labels.json"
    games = {"q1": ["A>B", "B>A"], "q2": [None, "A=B"]}
    path.write_text(json.dumps({"source": "…", "labels": {"m": games, "n": {"q1": ["A=B", None]}}}))
    [one, other] = read_labels(path)
    assert (one.model, other.model) == ("m", "n")
    assert one.games == {"q1": ("A>B", "B>A"), "q2": (None, "A=B")}


def test_plain_labels_are_of_the_model_that_the_file_names(tmp_path):
    path = tmp_path / "tiny-8b.json"
    path.write_text(json.dumps({"q1": ["A>B", "B>A"]}, indent=2))
    [labels] = read_labels(path, ["q1"])
    assert (labels.model, labels.games) == ("tiny-8b", {"q1": ("A>B", "B>A")})


def test_judgments_of_both_layouts(tmp_path):
    new = {
        "uid": "q2",
        "model": "m",
        "games": [{"score": "A=B", "judgment": {"answer": "…"}}, None],
    }
    odd = judgment("q3", games=({"score": "A<B"}, {"score": None}), judge="gpt-4", tstamp=1.5)
    path = lines(tmp_path / "m.jsonl", judgment(), new, odd, judgment(model="n"))
    [one, other] = read_labels(path)
    # What the judge wrote besides the five labels is no verdict.
    assert one.games == {"q1": ("A>B", "B>>A"), "q2": ("A=B", None), "q3": (None, None)}
    assert (other.model, len(other.games)) == ("n", 1)


def test_a_single_judgment_is_not_taken_for_plain_labels(tmp_path):
    [labels] = read_labels(lines(tmp_path / "x.jsonl", judgment()))
    assert (labels.model, labels.games) == ("m", {"q1": ("A>B", "B>>A")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("{}", "holds no labels; the layouts are"),
        ('{"labels": {}}', "holds no labels"),
        ('{"labels": {"m": {}}}', "holds no labels"),
        ('{"labels": ["A>B"]}', "holds no labels"),
        ('["A>B", "B>A"]', "holds a list; the layouts are"),
        ('{"q1": ["A>B", "A>B"],\n "q2": [', "is not JSON: "),
        ('{"q1": ["A>B"]}', "labels, question q1: 1 games; give two"),
        ('{"q1": ["A>B", "A>B", "A>B"]}', "labels, question q1: 3 games; give two"),
        ('{"q1": "A>B"}', r"q1.*the layouts are"),
        ('{"q1": ["A>B", 3]}', r"q1\.1.*given: 3"),
        ('{"q1": ["A>B", "[[B>A]]"]}', r"question q1: '\[\[B>A\]\]' is no label"),
        ('{"q1": ["A>B", "tie"]}', r"'tie' is no label; the labels are A>>B, A>B, A=B, B>A, B>>A"),
        ('{"q1": ["A>B", "A>B"], "q1": ["B>A", "A=B"]}', "'q1' stands there twice"),
        (json.dumps(judgment(games=[{"score": "A>B"}])), "line 1: 1 games; give two"),
        (json.dumps(judgment(games=[{"score": "A>B"}, {}])), r"games\.1\.score is missing"),
        (json.dumps(judgment(games=[{"score": "A>B"}, {"score": 2}])), r"games\.1\.score"),
        (f"{json.dumps(judgment())}\n" * 2, "line 2, model m: question q1 stands there twice"),
        (f"{json.dumps(judgment())}\n{{", "line 2: "),
    ],
)
def test_labels_that_are_refused(tmp_path, text, message):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_labels(path)
    assert str(error.value).startswith(str(path))
    assert "recipe" not in str(error.value)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "labels.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"labels\.json cannot be read"):
        read_labels(path)


def test_labels_of_other_questions(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"q1": ["A>B", "B>A"], "q9": ["A>B", "B>A"]}))
    with pytest.raises(
        ValueError,
        match=r"1 questions have no labels \(q2\) and 1 labelled ones are no questions \(q9\)",
    ):
        read_labels(path, ["q1", "q2"])
    with pytest.raises(ValueError, match=r"model m: 1 labelled ones are no questions \(q9\);"):
        read_labels(path, ["q1"])


def test_the_scores_of_a_file(tmp_path):
    games = [judgment(f"q{place}", model) for model in "mn" for place in range(3)]
    path = lines(tmp_path / "judgments.jsonl", *games)
    questions = lines(
        tmp_path / "question.jsonl", *[{"uid": f"q{place}", "prompt": "Hi"} for place in range(3)]
    )
    one, other = score_file(path, interval="published", questions=questions)
    assert (one.model, other.model, one.interval_kind) == ("m", "n", "published")
    # Each question: a loss, then a significant loss.
    assert (one.score, one.n_battles) == (0.0, 12)
    assert score_file(path)[0].interval_kind == "questions"
    with pytest.raises(ValueError, match=r"judgments\.jsonl, model m: 2 labelled ones"):
        score_file(path, questions=lines(questions, {"uid": "q0", "prompt": "Hi"}))
