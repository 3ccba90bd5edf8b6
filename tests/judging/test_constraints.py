"""Checkable constraints: each kind with responses that meet it and that do not."""

import json
import time

import pytest
from small_run import small_run
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import VerifierJudge
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.judging.verifier.constraints import Constraint, constraints_of, grade_constraints
from forethought.types import Message, Prompt, ResponseGroup, Unjudged

LIST = "Fruit:\n- apple\n* banana\n  + Cherry\n"
CASES = [
    # constraint, responses that meet it, responses that do not
    ({"type": "lower_case"}, ["a small reply. 7 of it", "straße"], ["A reply", "7", ""]),
    ({"type": "upper_case"}, ["LOUD, 7 TIMES!"], ["Loud", "7"]),
    ({"type": "no_commas"}, ["one and two; three"], ["one, two", "東京、京都"]),
    ({"type": "no_digits"}, ["seven"], ["7", "٧"]),
    (
        {"type": "keywords", "words": ["river", "old boat"]},
        ["The River, an old\nboat.", "(river) old boat"],
        ["The rivers and the old boat", "The river"],
    ),
    (
        {"type": "forbidden_words", "words": ["cat", "c++"]},
        ["A category of dogs", "c+ and C"],
        ["The CAT.", "I like C++!"],
    ),
    (
        {"type": "keyword_count", "word": "tea", "exactly": 2},
        ["Tea and tea in a teapot"],
        ["Tea", "tea tea tea"],
    ),
    (
        {"type": "in_order", "words": ["wash", "cut", "wash"]},
        ["Wash it. Cut it. Wash again."],
        ["Cut it. Wash it. Wash again.", "wash, cut", "washed, cut, washed"],
    ),
    ({"type": "letter_count", "letter": "z", "at_least": 2}, ["Zebra pizza"], ["zebra", ""]),
    ({"type": "letter_count", "letter": "z", "at_most": 1}, ["zebra", "no"], ["Zebra pizza"]),
    (
        {"type": "words", "at_least": 2, "at_most": 3},
        ["two words", "don't you – go"],
        ["one", "there are four words"],
    ),
    (
        {"type": "sentences", "exactly": 2},
        [
            "It rained. We left.",
            "Dr. Smith came at 3.15 p.m. sharp. He left!",
            'She said "Stop!" Then silence',
            "First line\nsecond line",
            "1. Wash it.\n2. Cut it.",
            "J. Smith reads, e.g. novels. Why?!",
            "I know what I. You do not.",
        ],
        ["It rained.", "One. Two. Three.", "Really? Yes. No.", ""],
    ),
    (
        {"type": "paragraphs", "exactly": 2},
        ["One.\n\nTwo\nlines.", "One.\n***\nTwo.", "One.\n \n\n\nTwo.\n\n"],
        ["One.\nTwo.", "One.\n\nTwo.\n\nThree."],
    ),
    ({"type": "bullets", "exactly": 3}, [LIST], [f"{LIST}- fig", "-apple\n-fig\n-pear", "1. a"]),
    (
        {"type": "capital_words", "at_most": 2},
        ["I like the NATO", "quiet"],
        ["I LIKE the NATO", "A-B C D"],
    ),
    (
        {"type": "placeholders", "at_least": 2},
        ["Dear [name], at [your address]"],
        ["Dear [name]", "[] [ ]", "[[name]"],
    ),
    (
        {"type": "starts_with", "text": "Dear  friend"},
        ["dear friend, hello", '"Dear\nFriend!"', "**Dear friend**"],
        ["My dear friend", "Dear"],
    ),
    (
        {"type": "ends_with", "text": "Any other questions?"},
        ["Done. any other Questions?", 'Done. "Any other questions?"\n'],
        ["Any other questions? No.", "questions?", "Any other questions"],
    ),
    (
        {"type": "ends_with_question"},
        ["Well?", 'She said "well?"\n', "何ですか？"],
        ["Well? No.", "Well"],
    ),
    ({"type": "title"}, ["<<Autumn>>\nLeaves."], ["<Autumn>", "<<>>", "<<Au\ntumn>>", "<< >>"]),
    ({"type": "quoted"}, ['"All of it."', " “All” \n"], ['"All" of it', '"', '""', "all"]),
    (
        {"type": "json"},
        ['{"a": [1]}', "[]", '```json\n{"a": 1}\n```', '```\n["a"]\n```'],
        ["{a: 1}", "7", 'Here: {"a": 1}', "", "[" * 100_000],
    ),
    (
        {"type": "alphabetical"},
        [LIST, "1. ant\n2) bee\n", "ant, bee and cat.", "Ant, bee"],
        ["- bee\n- ant", "bee, ant", "ant", ""],
    ),
    (
        {"type": "answer", "text": "Hill Street", "distractors": ["Mill Street", "Hill Street 9"]},
        ["On hill\nstreet.", "It is Hill Street, not the river"],
        ["Mill Street", "Hill Street or Mill Street", "Hill Street 9", "Hill Streets", ""],
    ),
    (
        {"type": "final_number", "value": 12},
        ["12", "5 + 7 = 12.", "The answer is 12 apples.", "It is 7, no: #### 12.0"],
        ["1, 2, 12, 13", "twelve", "The answer is 5 + 6.", "12 apples and 3 pears", ""],
    ),
    ({"type": "final_number", "value": 2.5}, ["It costs $2.50.", "5/2"], ["25", "2,5 or 3"]),
    (
        {"type": "items", "items": ["ant", "bee", "cat"]},
        ["Sorted: Ant, bee and cat.", "1. ant\n2. bee\n3. cat", "- an ant\n- a bee\n- a cat\n"],
        ["ant, bee", "ant, cat, bee", "ant, bee, cat, ant", "1. ant\n2. bee\n3. cat\n4. dog", ""],
    ),
    (
        {"type": "items", "items": ["red fox"], "others": ["fox hole", "owl"]},
        ["red\nfox", "fowl and red fox"],
        ["red fox, owl", "owl", "red fox, fox hole", "a red hole"],
    ),
]
IDS = [
    "-".join(map(str, (case[0]["type"], *[k for k in case[0] if k.startswith(("at_", "ex"))])))
    for case in CASES
]


def prompt(reference):
    return Prompt(
        prompt_id="p",
        messages=(Message(role="user", content="Write."),),
        category=None,
        source="s",
        reference=reference,
    )


@pytest.mark.parametrize(("constraint", "met", "unmet"), CASES, ids=IDS)
def test_each_kind(constraint, met, unmet):
    [found] = constraints_of(json.dumps([constraint]))
    assert {text: found.met(text) for text in met} == dict.fromkeys(met, True)
    assert {text: found.met(text) for text in unmet} == dict.fromkeys(unmet, False)


@pytest.mark.parametrize(
    "piece", [*'.\n[]<>`*-" a,', "Dr. ", "a. ", '." ', "<<a", "[a", "\n ", "- a\n", "```\n", "1. "]
)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_degenerate_responses_are_read_in_linear_time(case, piece):
    [constraint] = constraints_of(json.dumps([case[0]]))
    text = piece * (200_000 // len(piece))
    start = time.process_time()
    for response in (text, f"{text}x", f"x{text}", f"<<[\n{text}"):
        constraint.met(response)
    assert time.process_time() - start < 4


RECORDED = [
    # constraint, response, what it says, what lm-eval 0.4.13's IFEval said of it
    ({"type": "lower_case"}, "it is a small reply to you", True, True),
    ({"type": "lower_case"}, "seven", True, False),
    ({"type": "upper_case"}, "THIS IS A REPLY WITHOUT ANY SMALL LETTERS", True, True),
    ({"type": "no_commas"}, "one, two", False, False),
    ({"type": "no_commas"}, "東京、京都", False, True),
    ({"type": "keywords", "words": ["answer"]}, "The Answer.", True, True),
    ({"type": "keywords", "words": ["answer"]}, "It is answered.", False, True),
    ({"type": "forbidden_words", "words": ["cat"]}, "A category", True, True),
    ({"type": "keyword_count", "word": "the", "at_least": 2}, "The other", False, True),
    ({"type": "letter_count", "letter": "z", "at_least": 2}, "Zebra pizza", True, True),
    ({"type": "words", "at_least": 3}, "Don't go", False, True),
    ({"type": "words", "at_least": 3}, "Do not go", True, True),
    ({"type": "paragraphs", "exactly": 2}, "One.\n***\nTwo.", True, True),
    ({"type": "paragraphs", "exactly": 2}, "One.\n\nTwo.", True, False),
    ({"type": "bullets", "exactly": 2}, "- apple\n* banana", True, True),
    ({"type": "bullets", "exactly": 2}, "-apple\n-fig", False, True),
    ({"type": "placeholders", "at_least": 2}, "[name] and [address]", True, True),
    ({"type": "placeholders", "at_least": 1}, "[]", False, True),
    ({"type": "title"}, "<<Rain>>\nIt rained.", True, True),
    ({"type": "quoted"}, '"All of it."', True, True),
    ({"type": "quoted"}, "“All of it.”", True, False),
    ({"type": "ends_with", "text": "Any questions?"}, 'So. "any questions?"', True, True),
    ({"type": "json"}, '```json\n{"a": 1}\n```', True, True),
    ({"type": "json"}, "7", False, True),
]
"""Whole words are found here, not parts of words; blank lines part paragraphs, too; and no language
has to be recognised."""


@pytest.mark.parametrize(("constraint", "response", "met", "ifeval"), RECORDED)
def test_ifeval_was_asked_the_same(constraint, response, met, ifeval):
    [found] = constraints_of(json.dumps([constraint]))
    assert found.met(response) == met


def test_every_kind_has_a_case():
    kinds = {each.model_fields["type"].default for each in leaves(Constraint)}
    assert kinds == {case[0]["type"] for case in CASES}


def leaves(kind):
    below = kind.__subclasses__()
    return [leaf for each in below for leaf in leaves(each)] if below else [kind]


def test_the_score_is_the_share_that_is_met():
    wanted = prompt(json.dumps([{"type": "no_commas"}, {"type": "words", "at_most": 3}]))
    assert [grade_constraints(wanted, text) for text in ("a b", "a, b", "a, b c d")] == [1, 0.5, 0]


@pytest.mark.parametrize(
    ("response", "share"),
    [
        ("ant, bee, cat, dog", 1),
        ("ant, bee, dog, cat", 0.5),
        ("bee, ant, dog, cat", 0),
        ("ant, bee", 0.5),
        ("bee, cat, dog", 0),
        ("ant, ant, ant, ant, ant, ant, ant, ant", 0.125),
        ("ant, bee, cat, dog, dog, cat, bee, ant", 0.5),
        ("- ant\n- bee\n- cow\n- cat\n- dog", 0.8),
        ("ant, bee, cat, dog, owl", 0),
        ("Nothing.", 0),
    ],
)
def test_items_score_by_places_that_are_right(response, share):
    animals = {"type": "items", "items": ["ant", "bee", "cat", "dog"], "others": ["owl"]}
    assert grade_constraints(prompt(json.dumps([animals])), response) == pytest.approx(share)
    both = prompt(json.dumps([animals, {"type": "no_digits"}]))
    assert grade_constraints(both, response) == pytest.approx((share + 1) / 2)


def test_it_is_a_judge():
    asked = prompt('[{"type": "no_commas"}]')
    with open_judge(VerifierJudge(function="constraints")) as judge:
        assert judge.floor == 0
        right, wrong = checked(
            judge,
            [
                ResponseGroup(prompt=asked, responses=("a", "a,")),
                ResponseGroup(prompt=prompt("4"), responses=("a",)),
            ],
        )
    assert not isinstance(right, Unjudged)
    assert right.scores == (1, 0)
    assert isinstance(wrong, Unjudged)
    assert "reference" in wrong.reason


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (None, "reference: the prompt has no constraints; give the column"),
        ("no commas", "reference: it is not JSON"),
        ("[]", "reference: give"),
        ('{"type": "no_commas"}', "reference: give a list"),
        ('[{"type": "no_comas"}]', "reference.0.type: give one of lower_case"),
        ('[{"type": "no_comas"}]', "did you mean no_commas?"),
        ('[{"at_most": 3}]', "reference.0.type is missing"),
        ('[{"type": "words"}]', "reference.0: give exactly, or at_least, at_most or both"),
        ('[{"type": "words", "exactly": 3, "at_most": 3}]', "reference.0: give exactly, or"),
        ('[{"type": "words", "at_least": 4, "at_most": 3}]', "at_least 4 is more than at_most 3"),
        ('[{"type": "words", "at_most": -1}]', "reference.0.at_most: give"),
        ('[{"type": "words", "at_most": "many"}]', "reference.0.at_most: give"),
        ('[{"type": "words", "atmost": 3}]', "did you mean at_most?"),
        ('[{"type": "no_commas"}, {"type": "keywords"}]', "reference.1.words is missing"),
        ('[{"type": "keywords", "words": []}]', "reference.0.words: give"),
        ('[{"type": "keywords", "words": ["a", "?"]}]', "reference.0.words.1: it has neither"),
        ('[{"type": "letter_count", "letter": "ab", "at_most": 1}]', "it must be one letter"),
        ('[{"type": "ends_with"}]', "reference.0.text is missing"),
        ('[{"type": "answer", "text": "a"}]', "reference.0.distractors is missing"),
        ('[{"type": "answer", "text": "a", "distractors": []}]', "reference.0.distractors: give"),
        (
            '[{"type": "answer", "text": "old Ulm", "distractors": ["Bonn", "ulm"]}]',
            "reference.0: whoever answers 'old Ulm' says the distractor 'ulm', too",
        ),
        ('[{"type": "final_number", "value": "many"}]', "reference.0.value"),
        ('[{"type": "final_number", "value": NaN}]', "reference.0.value"),
        ('[{"type": "items", "items": []}]', "reference.0.items: give"),
        (
            '[{"type": "items", "items": ["a", "b", "A"]}]',
            "reference.0: whoever lists 'a' says 'A', too",
        ),
        (
            '[{"type": "items", "items": ["an owl"], "others": ["owl"]}]',
            "reference.0: whoever lists 'an owl' says 'owl', too",
        ),
    ],
)
def test_a_wrong_constraint_is_named(reference, says):
    with pytest.raises(ValueError, match="reference") as error:
        constraints_of(reference)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


ROWS = [
    {"prompt": "Hi", "reference": [{"type": "no_commas"}], "responses": ["a", "a,"]},
    {"prompt": "Ho", "reference": '[{"type": "words", "at_most": 1}]', "responses": ["a", "a b"]},
]


def judged(tmp_path, *rows):
    source = tmp_path / "responses.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["judge", source, tmp_path / "scores.jsonl", "judge.type=verifier"]
    return CliRunner().invoke(app, [*map(str, words), "judge.function=constraints"])


def test_constraints_stand_in_the_record_as_they_are_or_as_text(tmp_path):
    done = judged(tmp_path, *ROWS)
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["scores"] for line in lines] == [[1, 0], [1, 0]]


def test_a_wrong_one_names_file_line_and_field(tmp_path):
    wrong = {"prompt": "He", "reference": [{"type": "words", "most": 3}], "responses": ["a"]}
    done = judged(tmp_path, *ROWS, wrong)
    assert done.exit_code == 1
    said = done.output.replace("\n", " ")
    assert "responses.jsonl, line 3: reference.0.most: there is no such field" in said
    assert "Traceback" not in said
    assert not (tmp_path / "scores.jsonl").exists()


@pytest.mark.slow
def test_a_run_looks_at_the_constraints_of_all_prompts_before_it_samples(tmp_path):
    rows = [
        {"prompt": f"Say {n}.", "constraints": [{"type": "words", "at_most": n}]}
        for n in range(1, 90)
    ]
    rows[70]["constraints"][0]["at_most"] = "few"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"{{type: file, path: '{prompts}', columns: {{reference: constraints}}}}"
    words = ["judge={type: verifier, function: constraints}", f"prompts.train=[{source}]"]
    words += ["prompts.test.sources=[]", "prompts.test.count=20", "prompts.validation.count=10"]
    words += ["prompts.validation.sources=[]", "prompts_per_iteration=50", "iterations=1"]
    with pytest.raises(ValueError, match=r"line 71: reference\.0\.at_most: give") as error:
        small_run(tmp_path / "run", *words)
    assert "judge (verifier constraints) cannot score a prompt" in str(error.value)
    assert not list((tmp_path / "run").rglob("rollouts*"))
