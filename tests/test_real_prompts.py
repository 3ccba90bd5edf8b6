"""The prompts of benchmarks/real: made anew alike, in no two splits, graded as they should be."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from forethought.config.recipe_files import load_recipe
from forethought.judging.verifier.constraints import constraints_of, grade_constraints
from forethought.types import Message, Prompt

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "real" / "prompts.py"
FAMILIES = ("writing", "lists", "look_ups", "word_problems")
Row = dict[str, Any]


def make(folder: Path, seed: int = 0) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), str(folder), "--seed", str(seed)]
    return subprocess.run(words, check=False, capture_output=True, text=True)


def read(folder: Path) -> dict[str, list[Row]]:
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").open()]
        for split in ("train", "validation", "test", "traces")
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    assert make(folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def splits(folder) -> dict[str, list[Row]]:
    return read(folder)


@pytest.fixture(scope="module")
def rows(splits) -> list[Row]:
    return [row for split in splits.values() for row in split]


def of_family(rows: list[Row], family: str) -> list[Row]:
    return [row for row in rows if row["category"].removesuffix("_new_template") == family]


def grade(row: Row, response: str) -> float:
    prompt = Prompt(
        prompt_id="p",
        messages=(Message(role="user", content=row["prompt"]),),
        category=row["category"],
        source="s",
        reference=json.dumps(row["reference"]),
    )
    return grade_constraints(prompt, response)


def test_a_seed_gives_the_same_files_and_another_one_others(folder, tmp_path):
    assert make(tmp_path / "again").returncode == 0
    assert make(tmp_path / "other", seed=1).returncode == 0
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "traces.jsonl"):
        text = (folder / name).read_text()
        assert (tmp_path / "again" / name).read_text() == text
        assert (tmp_path / "other" / name).read_text() != text


def test_files_of_another_seed_are_not_written_over(folder):
    before = (folder / "train.jsonl").read_bytes()
    refused = make(folder, seed=1)
    assert refused.returncode == 1
    assert "train.jsonl holds other prompts" in refused.stderr
    assert (folder / "train.jsonl").read_bytes() == before
    assert make(folder).returncode == 0


def test_families_have_equal_shares_and_a_quarter_of_the_test_is_new(splits):
    shares = {split: Counter(row["category"] for row in rows) for split, rows in splits.items()}
    assert shares["train"] == dict.fromkeys(FAMILIES, 512)
    assert shares["validation"] == dict.fromkeys(FAMILIES, 50)
    new = {f"{family}_new_template": 50 for family in FAMILIES}
    assert shares["test"] == dict.fromkeys(FAMILIES, 150) | new
    assert shares["traces"] == {"lists": 160, "look_ups": 160, "word_problems": 96}


def test_a_trace_is_a_thought_and_a_right_response_without_it(splits):
    for row in splits["traces"]:
        assert row["thought"]
        assert grade(row, row["response"]) == 1, row
        assert row["thought"] not in row["response"]
    assert not any(
        "response" in row for split in splits if split != "traces" for row in splits[split]
    )


def test_new_templates_are_in_no_other_split(splits):
    trained = {row["template"] for split in splits if split != "test" for row in splits[split]}
    is_new = {row["template"]: row["category"].endswith("_new_template") for row in splits["test"]}
    assert all(new == (template not in trained) for template, new in is_new.items())
    assert sum(is_new.values()) >= 16


def request(row: Row) -> str:
    """What a writing prompt asks for, without its constraints."""
    return row["prompt"].split(". ")[0]


def test_no_prompt_or_near_duplicate_is_there_twice(rows):
    texts = Counter(row["prompt"] for row in rows)
    assert max(texts.values()) == 1
    # In any order, with other names or with other constraints it would be nearly the same.
    same = {
        "writing": lambda row: re.sub(r"[A-Z]\w+ (?=something)|to [A-Z]\w+", "", request(row)),
        "lists": lambda row: " ".join(sorted(re.findall(r"\w+", row["prompt"]))),
        "look_ups": lambda row: " ".join(sorted(re.findall(r"\w+", row["prompt"]))),
        "word_problems": lambda row: f"{row['template']} {re.findall(r'[0-9]+', row['prompt'])}",
    }
    for family, key in same.items():
        found = Counter(key(row) for row in of_family(rows, family))
        assert [text for text, count in found.items() if count > 1] == []


def test_every_reference_states_constraints(rows):
    assert all(constraints_of(json.dumps(row["reference"])) for row in rows)


def test_writing_asks_for_two_to_four_constraints_of_many_kinds(rows):
    asked = [row["reference"] for row in of_family(rows, "writing")]
    assert {len(constraints) for constraints in asked} == {2, 3, 4}
    assert len({one["type"] for constraints in asked for one in constraints}) >= 14
    for row in of_family(rows, "writing"):
        for one in row["reference"]:
            named = [*one.get("words", ()), *(one[key] for key in ("word", "letter") if key in one)]
            assert all(f'"{word}"' in row["prompt"] for word in named)
            assert one.get("text", "") in row["prompt"]


def test_prompts_are_short_and_read_as_sentences(rows):
    for row in rows:
        assert len(row["prompt"].split()) <= 70
        assert not re.search(r"[{}]|  |\ba [aeio]\w", row["prompt"])
        assert row["prompt"].endswith((".", '."', "?"))


def test_the_recipe_never_runs_out_of_prompts_and_shows_none_of_them(splits, rows):
    real = SCRIPT.parent
    recipe = load_recipe([str(real / "recipe.yaml")])
    assert recipe.warm_start is not None
    used = recipe.warm_start.prompts + recipe.iterations * recipe.prompts_per_iteration
    assert used <= len(splits["train"])
    assert recipe.prompts.test is not None
    assert recipe.prompts.test.count == len(splits["test"])
    shown = [json.loads(line) for line in (real / "demonstrations.jsonl").open()]
    assert not {one["prompt"] for one in shown} & {row["prompt"] for row in rows}
    assert all(one["thought"] and one["response"] for one in shown)


def given(row: Row) -> list[str]:
    """The list in a prompt."""
    found = re.search(r": ([a-z, ]+)\.", row["prompt"])
    return found[1].split(", ") if found else re.findall(r"[A-Z]\w+(?= \w+ \d)", row["prompt"])


def quoted(row: Row) -> list[str]:
    return re.findall(r'"(\w+)"', row["prompt"])


def by_number(row: Row) -> list[str]:
    return sorted(
        given(row), key=lambda name: int(re.findall(rf"{name} \w+ (\d+)", row["prompt"])[0])
    )


SORTED = {
    "sort_by_letter": lambda row: sorted(given(row)),
    "sort_backwards": lambda row: sorted(given(row))[::-1],
    "sort_by_length": lambda row: sorted(given(row), key=len),
    "sort_by_age": by_number,
    "sort_by_price": lambda row: by_number(row)[::-1],
    "sort_by_points": lambda row: by_number(row)[::-1],
    "keep_a_letter": lambda row: [word for word in given(row) if word[0] == quoted(row)[0]],
    "turn_round": lambda row: given(row)[::-1],
    "first_to_the_end": lambda row: [*given(row)[1:], given(row)[0]],
    "last_to_the_front": lambda row: [given(row)[-1], *given(row)[:-1]],
    "every_second": lambda row: [given(row)[1], given(row)[3]],
    "plurals": lambda row: [f"{word}s" for word in given(row)],
    "put_before_each": lambda row: [f"{quoted(row)[0]} {word}" for word in given(row)],
    "leave_one_out": lambda row: [
        word for word in given(row) if f"the {word} out" not in row["prompt"]
    ],
    "replace_one": lambda row: [
        quoted(row)[1] if word == quoted(row)[0] else word for word in given(row)
    ],
}


def test_lists_done_from_the_prompts_words_score_one_and_others_less(rows):
    for row in of_family(rows, "lists"):
        [wanted] = row["reference"]
        done = wanted["items"]
        if row["template"] in SORTED:
            done = SORTED[row["template"]](row)
        else:
            assert set(done) < set(given(row))
        assert grade(row, ", ".join(done)) == 1, row
        assert grade(row, "\n".join(f"- {item}" for item in done)) == 1
        assert grade(row, row["prompt"]) == 0, row
        assert grade(row, ", ".join(done[::-1])) < 1
        assert grade(row, ", ".join(done * 2)) < 1


def test_look_ups_followed_through_the_passage_score_one_and_others_nothing(rows):
    for row in of_family(rows, "look_ups"):
        [wanted] = row["reference"]
        candidates = [wanted["text"], *wanted["distractors"]]
        assert len(candidates) == 3
        passage, question = row["prompt"].split("\n\n")
        sentences = re.split(r"(?<!Mr)(?<!Mrs)\. ", passage.removesuffix("."))
        assert len(sentences) == 5
        words = {sentence: set(re.findall(r"\w+", sentence)) for sentence in sentences}
        ends = {
            sentence: candidate
            for sentence in sentences
            for candidate in candidates
            if re.search(rf"\b{candidate}$|\b{candidate} floor$", sentence)
        }
        firsts = [sentence for sentence in sentences if sentence not in ends]
        assert (len(ends), len(firsts)) == (3, 2)
        [only_here, only_there] = [words[a] - words[b] for a, b in (firsts, firsts[::-1])]
        asked = set(re.findall(r"\w+", question.split("?")[0]))
        link = only_here if only_here & asked else only_there
        everywhere = set.intersection(*(words[sentence] for sentence in ends))
        shared = {end: len(link & words[sentence] - everywhere) for sentence, end in ends.items()}
        [answer] = [end for end, count in shared.items() if count == max(shared.values())]
        assert grade(row, f"It is {answer}.") == 1, row
        for other in wanted["distractors"]:
            assert grade(row, f"It is {other}.") == 0
        assert grade(row, " ".join(candidates)) == 0
        assert grade(row, row["prompt"]) == 0


OPERATIONS = {
    "buy_and_give": "+-",
    "lose_and_find": "-+",
    "three_days": "++",
    "gone_twice": "--",
    "boxes_and_more": "*+",
    "boxes_and_less": "*-",
    "money_left": "--",
    "bus_stops": "-+",
    "more_than": "++",
    "two_prices": "++",
    "pages": "--",
    "rows": "*-",
}
OPERATE = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def test_word_problems_worked_out_score_one_and_numbers_of_the_text_nothing(rows):
    for row in of_family(rows, "word_problems"):
        a, b, c = map(int, re.findall(r"\d+", row["prompt"]))
        first, second = OPERATIONS[row["template"]]
        half_way = OPERATE[first](a, b)
        result = OPERATE[second](half_way, c)
        assert half_way > 0
        assert grade(row, f"{a} {first} {b} = {half_way}. In all it is {result}.") == 1, row
        assert grade(row, row["prompt"]) == 0
        assert [grade(row, f"The answer is {n}.") for n in (a, b, c, result + 1)] == [0] * 4
