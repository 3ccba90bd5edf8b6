"""Prompts: what a record may hold, what is refused and how, and slices that never overlap."""

import bz2
import csv
import gzip
import io
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.config import (
    ColumnsConfig,
    DatasetPrompts,
    FilePrompts,
    HeldOut,
    MicroworldPrompts,
    PromptsConfig,
)
from forethought.prompts import PromptSplit, load_prompts, prompt_id_of, split_prompts
from forethought.types import Message, Prompt

FULL = ColumnsConfig(prompt="q", input="more", category="kind", reference="answer")


def keep(text: str) -> str:
    return text


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def load(path: Path, columns: ColumnsConfig | None = None, **options: Any) -> list[Prompt]:
    source = FilePrompts(path=path, columns=columns or ColumnsConfig(), **options)
    return load_prompts([source], keep).prompts


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.messages[-1].content for prompt in prompts]


def refusal(path: Path, columns: ColumnsConfig | None = None) -> str:
    with pytest.raises(ValueError, match=r"; |: ") as raised:
        load(path, columns)
    assert type(raised.value) is ValueError
    return str(raised.value)


def test_jsonl_with_all_columns(tmp_path: Path) -> None:
    rows = [
        {"q": "Add.", "more": "2 and 3", "kind": "maths", "answer": 5, "unused": [1]},
        {"q": "Half of 1?", "more": "", "kind": None, "answer": 0.5},
        {"q": "Large?", "more": None, "kind": "", "answer": 1e20},
        {"q": "True?", "kind": 3, "answer": True},
    ]
    prompts = load(write(tmp_path / "maths.jsonl", rows), FULL)
    assert texts(prompts) == ["Add.\n\n2 and 3", "Half of 1?", "Large?", "True?"]
    assert [p.reference for p in prompts] == ["5", "0.5", "100000000000000000000", "true"]
    assert [p.category for p in prompts] == ["maths", None, None, "3"]
    assert {p.source for p in prompts} == {"maths"}
    assert load(tmp_path / "maths.jsonl", FULL, source="mine", limit=1)[0].source == "mine"


def test_the_id_is_the_content_hash_and_stays_so() -> None:
    message = Message(role="user", content="What is 2 + 3?")
    assert prompt_id_of([message]) == "d2a6d1e7aba58d52"
    assert prompt_id_of([message, message]) != prompt_id_of([message])


def test_json_list_and_parquet_and_lines_give_the_same(tmp_path: Path) -> None:
    rows = [{"q": "Hi", "more": "x", "kind": "a", "answer": "1"}, {"q": "Ho", "answer": "2"}]
    full = [dict.fromkeys(("q", "more", "kind", "answer")) | row for row in rows]
    lines = load(write(tmp_path / "a.jsonl", full), FULL, source="s")
    assert load(write(tmp_path / "lines.json", full), FULL, source="s") == lines
    (tmp_path / "list.json").write_text(json.dumps(full, indent=2))
    assert load(tmp_path / "list.json", FULL, source="s") == lines
    pq.write_table(pa.Table.from_pylist(full), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet", FULL, source="s") == lines
    datasets.Dataset.from_list(full).save_to_disk(tmp_path / "saved")
    source = DatasetPrompts(name=str(tmp_path / "saved"), columns=FULL, source="s")
    assert load_prompts([source], keep).prompts == lines


def test_decimals_of_parquet_become_strings(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["Hi"], "answer": pa.array([Decimal("1.50")])})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = ColumnsConfig(reference="answer")
    assert load(tmp_path / "a.parquet", columns)[0].reference == "1.50"


def test_a_folder_with_splits(tmp_path: Path) -> None:
    part = datasets.Dataset.from_list([{"prompt": "Hi"}])
    datasets.DatasetDict({"train": part, "dev": part}).save_to_disk(tmp_path / "d")
    assert texts(load_prompts([DatasetPrompts(name=str(tmp_path / "d"))], keep).prompts) == ["Hi"]
    with pytest.raises(ValueError, match=r"has splits \['train', 'dev'\], no 'test'"):
        load_prompts([DatasetPrompts(name=str(tmp_path / "d"), split="test")], keep)
    columns = ColumnsConfig(prompt="question")
    with pytest.raises(ValueError, match=r"no column 'question'; it has \['prompt'\]"):
        load_prompts([DatasetPrompts(name=str(tmp_path / "d"), columns=columns)], keep)


def saved(folder: Path, **splits: int) -> str:
    """A folder of splits, each with so many prompts named after it."""
    parts: dict[str | datasets.NamedSplit, datasets.Dataset] = {
        name: datasets.Dataset.from_list([{"prompt": f"{name} {n}"} for n in range(count)])
        for name, count in splits.items()
    }
    datasets.DatasetDict(parts).save_to_disk(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("test", ["test 0", "test 1"]),
        ("train[:2]", ["train 0", "train 1"]),
        ("train[75%:]", ["train 3"]),
        ("test+train[3:]", ["test 0", "test 1", "train 3"]),
        ("all", ["train 0", "train 1", "train 2", "train 3", "test 0", "test 1"]),
    ],
)
def test_a_saved_folder_honours_its_split(tmp_path: Path, split: str, wanted: list[str]) -> None:
    source = DatasetPrompts(name=saved(tmp_path / "d", train=4, test=2), split=split)
    loaded = load_prompts([source], keep)
    assert texts(loaded.prompts) == wanted
    first = loaded.places[loaded.prompts[0].prompt_id]
    assert first == f"{tmp_path}/d, {split}, row 1"


def test_a_saved_folder_without_splits_honours_them_too(tmp_path: Path) -> None:
    rows = [{"prompt": str(n)} for n in range(4)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "plain")
    datasets.Dataset.from_list(rows, split=datasets.NamedSplit("test")).save_to_disk(
        tmp_path / "named"
    )
    plain, named = str(tmp_path / "plain"), str(tmp_path / "named")
    assert len(load_prompts([DatasetPrompts(name=plain)], keep).prompts) == 4
    sliced = load_prompts([DatasetPrompts(name=plain, split="train[1:3]")], keep)
    assert texts(sliced.prompts) == ["1", "2"]
    assert len(load_prompts([DatasetPrompts(name=named, split="test")], keep).prompts) == 4
    for name, split, problem in (
        (plain, "test", r"has splits \['train'\], no 'test'; correct `split`"),
        (named, "train", r"has splits \['test'\], no 'train'; correct `split`"),
        (plain, "train[x:]", r"split 'train\[x:\]' cannot be read .* train\[:100\]"),
    ):
        with pytest.raises(ValueError, match=problem):
            load_prompts([DatasetPrompts(name=name, split=split)], keep)
    with pytest.raises(ValueError, match=r"has no subsets; leave `subset` \(main\) out"):
        load_prompts([DatasetPrompts(name=plain, subset="main")], keep)


def test_a_folder_of_files_is_read_by_load_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "train.jsonl", [{"prompt": "Hi"}])
    assert texts(load_prompts([DatasetPrompts(name=str(tmp_path / "d"))], keep).prompts) == ["Hi"]


def test_a_data_set_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="data set nobody/nothing, subset None, split train could"):
        load_prompts([DatasetPrompts(name="nobody/nothing")], keep)
    with pytest.raises(ValueError, match=r"folder \./nowhere does not exist"):
        load_prompts([DatasetPrompts(name="./nowhere")], keep)


def test_conversations(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": "<think>secret</think>Hello"},
        {"role": "user", "content": "Bye"},
    ]
    path = write(tmp_path / "c.jsonl", [{"prompt": turns}])
    prompt = load_prompts(
        [FilePrompts(path=path)], lambda text: text.split("</think>")[-1]
    ).prompts[0]
    assert [m.role for m in prompt.messages] == ["system", "user", "assistant", "user"]
    assert prompt.messages[2].content == "Hello"
    assert "secret" not in repr(prompt)
    empty = [{"role": "system", "content": " \n"}, *turns[1:2]]
    path = write(tmp_path / "e.jsonl", [{"prompt": empty}, {"prompt": "Hi"}])
    loaded = load_prompts([FilePrompts(path=path)], keep)
    prompts, duplicates = loaded.prompts, loaded.duplicates
    assert ([m.role for m in prompts[0].messages], duplicates) == (["user"], 1)


def test_user_turns_become_one_message(tmp_path: Path) -> None:
    rows = [{"question_id": 81, "turns": ["Write a blog.", "Rewrite it."], "reference": []}]
    prompts = load(write(tmp_path / "mt_bench.jsonl", rows), ColumnsConfig(prompt="turns"))
    assert [m.content for m in prompts[0].messages] == ["Write a blog.\n\nRewrite it."]


SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Hello"},
    {"from": "human", "value": "Bye"},
    {"from": "gpt", "value": "Bye-bye"},
]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]


def test_sharegpt_and_messages_as_json_give_the_same_as_messages(tmp_path: Path) -> None:
    rows = [
        {"prompt": CHAT},
        {"prompt": json.dumps(CHAT, indent=2)},
        {"messages": CHAT},
        {"messages": json.dumps(CHAT)},
        {"conversations": SHAREGPT},
        {"conversations": json.dumps(SHAREGPT)},
        {"conversations": SHAREGPT[:-1], "id": "x_0"},
    ]
    loaded = load_prompts([FilePrompts(path=write(tmp_path / "a.jsonl", rows))], keep)
    (prompt,) = loaded.prompts
    assert [(m.role, m.content) for m in prompt.messages] == [
        (turn["role"], turn["content"]) for turn in CHAT
    ]
    assert loaded.duplicates == len(rows) - 1
    pq.write_table(
        pa.Table.from_pylist([{"id": 1, "conversations": SHAREGPT}]), tmp_path / "a.parquet"
    )
    assert load(tmp_path / "a.parquet", source="a") == [prompt]
    datasets.Dataset.from_list([{"id": 1, "conversations": SHAREGPT}]).save_to_disk(tmp_path / "d")
    source = DatasetPrompts(name=str(tmp_path / "d"), source="a")
    assert load_prompts([source], keep).prompts == [prompt]


@pytest.mark.parametrize(
    "text",
    ['["a", "b"]', "[1, 2, 3] sort these", '[{"role": "user"}] is what?', '{"role": "x"}', "[]"],
)
def test_a_text_that_only_begins_like_json_is_a_text(tmp_path: Path, text: str) -> None:
    (prompt,) = load(write(tmp_path / "a.jsonl", [{"prompt": text}]))
    assert [m.content for m in prompt.messages] == [text]


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_ending_gives_the_same(tmp_path: Path, ending: str, packed: str) -> None:
    rows = [{"q": 'Say "a, b"\tor\nc', "kind": "x"}, {"q": "Ho", "kind": ""}]
    content = io.BytesIO()
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), content)
    elif ending in (".csv", ".tsv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, ["q", "kind"], delimiter="\t" if ending == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        content.write(b"\xef\xbb\xbf" + text.getvalue().encode())
    else:
        lines = json.dumps(rows) if ending == ".json" else "\n".join(map(json.dumps, rows))
        content.write(lines.encode())
    squeezed = content.getvalue()
    if packed:
        squeezed = {
            ".gz": lambda: gzip.compress(squeezed[:9]) + gzip.compress(squeezed[9:]),
            ".bz2": lambda: bz2.compress(squeezed),
            ".zst": lambda: pa.compress(squeezed, "zstd", asbytes=True),
        }[packed]()
    path = tmp_path / f"mine.v2{ending}{packed}"
    path.write_bytes(squeezed)
    columns = ColumnsConfig(prompt="q", category="kind")
    prompts = load(path, columns)
    assert texts(prompts) == ['Say "a, b"\tor\nc', "Ho"]
    assert [p.category for p in prompts] == ["x", None]
    assert {p.source for p in prompts} == {"mine.v2"}
    fsspec.filesystem("memory").pipe(f"/bucket/{path.name}", squeezed)
    there = FilePrompts.model_validate({"path": f"memory://bucket/{path.name}", "columns": columns})
    assert load_prompts([there], keep).prompts == prompts


def test_places_name_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt\n"one\nline"\n\ntwo\n')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'\n{"prompt": "three"}\n'))
    sources = [FilePrompts(path=tmp_path / name) for name in ("a.csv", "b.jsonl.gz")]
    loaded = load_prompts(sources, keep)
    assert [
        loaded.places[prompt.prompt_id].removeprefix(f"{tmp_path}/") for prompt in loaded.prompts
    ] == [
        "a.csv, line 2",
        "a.csv, line 5",
        "b.jsonl.gz, line 2",
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", b"prompt,n\nfine,1\nx\n", "a.csv, line 3: 1 cells and 2 column names; quote"),
        ("a.csv", b'prompt\n"fine"\n"open\n', "a.csv, line 3: not CSV (unexpected end of data)"),
        ("a.csv", b"prompt,prompt\nx,y\n", "a.csv, line 1: two columns have one name"),
        ("a.csv", b"prompt\n\xff\n", "a.csv, line 2: not UTF-8"),
        ("a.csv", b"query\nx\n", "a.csv, line 2 has no column 'prompt'; it has ['query']"),
        ("a.csv", b"prompt\n", "a.csv holds no records"),
        ("a.jsonl.gz", b"plain", "a.jsonl.gz cannot be unpacked"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"prompt": "x"}' * 999, mtime=0)[:-30],
            "a.jsonl.gz cannot be unpack",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"prompt": "x"}\n{', mtime=0),
            "a.jsonl.gz, line 2: not JSON",
        ),
        (
            "a.xz",
            b"",
            "a.xz is of no kind that is read; give a file that ends in .jsonl, .json, .csv",
        ),
        ("a.gz", b"", "a.gz is of no kind that is read"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert problem in refusal(tmp_path / name)


TURN = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (None, "not a prompt, got None; give a string, a list of"),
        (5, "not a prompt, got 5"),
        ([], "not a prompt"),
        ([TURN, "x"], "not a prompt"),
        ("", "the prompt is empty"),
        (" \n\t", "the prompt is empty"),
        (["a", " "], "turn 2 is empty"),
        ("a\ud800b", "lone surrogate at character 1"),
        ([TURN, TURN], "turn 2 must be of role assistant"),
        ([REPLY, TURN], "turn 1 must be of role system or user"),
        ([{"role": "tool", "content": "x"}], "turn 1 must be of role system or user"),
        ([TURN, REPLY, {"role": "system", "content": ""}], "turn 3 must be of role user"),
        ([{"from": "gpt", "value": "x"}], "the last turn is not the user's"),
        ([{"from": "tool", "value": "x"}], "turn 1 is from 'tool', which is none of human, user"),
        ([{"from": "human", "value": 5}], "turn 1 is not text, got 5"),
        ([{"from": "human", "value": "x"}] * 2, "turn 2 must be of role assistant"),
        ("[{'role': 'user', 'content': 'Hi'}]", "it looks like messages and is not JSON"),
        (json.dumps([{"role": "user", "content": ""}]), "turn 1 is empty"),
        ([{"role": "user", "content": None}], "turn 1 is not text, got None"),
        ([{"role": "user", "content": [{"type": "text"}]}], "turn 1 is not text"),
        ([TURN, REPLY], "the last turn is not the user's"),
        ([{"role": "system", "content": "x"}], "the last turn is not the user's"),
        ([{"role": "system", "content": ""}], "the last turn is not the user's"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_place(
    tmp_path: Path, prompt: Any, problem: str
) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "fine"}, {"prompt": prompt}])
    message = refusal(path)
    assert message.startswith(f"{path}, line 2, column 'prompt': ")
    assert problem in message
    assert ", got " in message
    message.encode("utf-8")


def test_a_turn_that_is_all_thought_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": [TURN, REPLY, TURN]}])
    with pytest.raises(ValueError, match="turn 2 holds a thought and no answer"):
        load_prompts([FilePrompts(path=path)], lambda _: "")


def test_long_values_are_shortened_in_errors(tmp_path: Path) -> None:
    assert len(refusal(write(tmp_path / "a.jsonl", [{"prompt": [5] * 10**5}]))) < 400


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"prompt": "x"', "line 3: not JSON"),
        (b'{"prompt": "a\x00b"}', "line 3: not JSON"),
        (b'["x"]', "line 3: a record is an object"),
        (b"3", "line 3: a record is an object"),
        (b'{"prompt": "\xff"}', "line 3: not UTF-8"),
        (b"[" * 200_000, "line 3: not JSON"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "line 3: not JSON"),
        (b'{"query": "x", "id": 1}', "line 3 has no column 'prompt'; it has ['id', 'query']"),
    ],
)
def test_bad_lines_refuse_the_file(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n\n' + line + b"\n")
    assert problem in refusal(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "none.jsonl does not exist; correct `path`" in refusal(tmp_path / "none.jsonl")
    assert "a.txt is of no kind that is read; give a" in refusal(write(tmp_path / "a.txt", ["x"]))
    assert "holds no records" in refusal(write(tmp_path / "a.jsonl", []))
    assert "no readable Parquet file" in refusal(write(tmp_path / "a.parquet", ["x"]))
    (tmp_path / "a.json").write_text('[{"prompt": "x"}, 5]')
    assert "record 2: a record is an object" in refusal(tmp_path / "a.json")
    pq.write_table(pa.table({"prompt": ["x"], "n": [1]}), tmp_path / "b.parquet")
    columns = ColumnsConfig(prompt="q")
    assert "no column 'q'; it has ['n', 'prompt']" in refusal(tmp_path / "b.parquet", columns)


def test_optional_columns_that_no_record_has(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "x", "solution": 1}])
    message = refusal(path, ColumnsConfig(reference="answer"))
    assert "no column 'answer'; it has ['prompt', 'solution']" in message


@pytest.mark.parametrize("value", [float("nan"), [1], {"a": 1}])
def test_references_that_are_neither_text_nor_number(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "x", "answer": value}])
    assert "column 'answer': the value is not text" in refusal(
        path, ColumnsConfig(reference="answer")
    )


def test_a_reference_that_is_a_list_of_objects_is_kept_as_json(tmp_path: Path) -> None:
    constraints = [{"type": "words", "at_most": 3}, {"type": "keywords", "words": ["é"]}]
    rows = [{"prompt": "x", "answer": constraints}, {"prompt": "y", "answer": constraints[:1]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in (write(tmp_path / "a.jsonl", rows), tmp_path / "a.parquet"):
        first, second = load(path, ColumnsConfig(reference="answer"))
        # In Parquet both objects have all three fields.
        assert json.loads(first.reference or "") == constraints
        assert json.loads(second.reference or "") == constraints[:1]
        assert "é" in (first.reference or "")


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    separators = "a\u2028b\u0085c"
    body = f'\ufeff{{"prompt": "{separators}"}}\r\n\r\n  \n{{"prompt": "b"}}'
    path.write_bytes(body.encode())
    assert texts(load(path)) == [separators, "b"]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)),
    st.booleans(),
)
def test_any_text_arrives_as_it_is(tmp_path_factory, prompts: list[str], ascii_only: bool) -> None:
    prompts = ["שלום 👩‍👩‍👧 \x00\x07", "def f():\r\n\treturn '\\u0041'\n", "x" * 10**5, *prompts]
    path = tmp_path_factory.mktemp("p") / "a.jsonl"
    lines = [json.dumps({"prompt": text}, ensure_ascii=ascii_only) for text in prompts]
    path.write_bytes("\n".join(lines).encode())
    assert texts(load(path)) == list(dict.fromkeys(prompts))


def test_duplicates_are_dropped_and_counted_within_and_across_sources(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", [{"prompt": text} for text in "aba"])
    two = write(tmp_path / "b.jsonl", [{"prompt": text} for text in ["b", "c", "c "]])
    loaded = load_prompts([FilePrompts(path=one), FilePrompts(path=two)], keep)
    prompts, duplicates = loaded.prompts, loaded.duplicates
    assert (texts(prompts), duplicates) == (["a", "b", "c", "c "], 2)
    assert prompts[1].source == "a"


def split(config: PromptsConfig, seed: int = 0) -> PromptSplit:
    return split_prompts(config, seed=seed, strip_thought=keep)


def numbered(path: Path, numbers: range) -> FilePrompts:
    return FilePrompts(path=write(path, [{"prompt": f"Question {n}"} for n in numbers]))


def everything(result: PromptSplit) -> list[str]:
    return [p.prompt_id for p in (*result.train, *result.validation, *result.test)]


def test_no_prompt_stands_in_two_places(tmp_path: Path) -> None:
    config = PromptsConfig(
        train=(numbered(tmp_path / "a.jsonl", range(20)),),
        validation=HeldOut(count=4),
        test=HeldOut(count=5),
    )
    result = split(config)
    assert [len(part) for part in (result.train, result.validation, result.test)] == [11, 4, 5]
    assert len(set(everything(result))) == 20
    assert (result.duplicates, result.overlap) == (0, 0)


def test_the_order_of_training_depends_on_the_seed_and_not_on_the_file(tmp_path: Path) -> None:
    forth = numbered(tmp_path / "a.jsonl", range(20))
    back = FilePrompts(
        path=write(tmp_path / "b.jsonl", [{"prompt": f"Question {n}"} for n in range(19, -1, -1)]),
        source="a",
    )
    held: dict[str, Any] = {"validation": HeldOut(count=4), "test": HeldOut(count=2)}
    result = split(PromptsConfig(train=(forth,), **held))
    assert split(PromptsConfig(train=(back,), **held)) == result
    assert everything(split(PromptsConfig(train=(forth,), **held), seed=1)) != everything(result)


def test_what_is_held_out_is_removed_from_training_and_counted(tmp_path: Path) -> None:
    config = PromptsConfig(
        train=(numbered(tmp_path / "a.jsonl", range(10)),),
        validation=HeldOut(count=3, sources=(numbered(tmp_path / "v.jsonl", range(7, 12)),)),
        test=HeldOut(count=2, sources=(numbered(tmp_path / "t.jsonl", range(8, 10)),)),
    )
    result = split(config)
    assert len(set(everything(result))) == len(everything(result)) == 10 + 2
    assert len(result.train) == 7
    assert {p.messages[0].content[-2:].strip() for p in result.test} == {"8", "9"}
    # The test's two are left out of validation, and all three shared ones out of training.
    assert result.overlap == 5


def test_holding_out_too_many_says_how_many_there_are(tmp_path: Path) -> None:
    train = (numbered(tmp_path / "a.jsonl", range(10)),)
    config = PromptsConfig(train=train, validation=HeldOut(count=3))
    assert len(split(config).train) == 7
    with pytest.raises(ValueError, match=r"prompts\.validation\.count asks for 11 .* left 10"):
        split(PromptsConfig(train=train, validation=HeldOut(count=11)))
    own = HeldOut(count=3, sources=(numbered(tmp_path / "v.jsonl", range(2)),))
    with pytest.raises(ValueError, match=r"prompts\.test\.count asks for 3 .* sources hold 2"):
        split(PromptsConfig(train=train, validation=HeldOut(count=1), test=own))


def test_the_microworld_is_the_same_world_for_every_seed() -> None:
    source = MicroworldPrompts(split="validation", count=20)
    config = PromptsConfig(train=(source,), validation=HeldOut(count=4))
    results = [split(config, seed=seed) for seed in (0, 1)]
    prompt = results[0].train[0]
    assert prompt.source == "microworld"
    assert prompt.category
    assert prompt.reference
    world = {prompt.prompt_id for prompt in load_prompts([source], keep).prompts}
    assert set(everything(results[0])) | set(everything(results[1])) <= world
    assert results[0].train != results[1].train


def test_prompts_at_an_address(tmp_path: Path) -> None:
    rows = [{"prompt": "One?", "kind": "a"}, {"prompt": "Two?", "kind": "b"}]
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/p.jsonl", write(tmp_path / "p.jsonl", rows).read_bytes())
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    files.pipe("/bucket/p.parquet", (tmp_path / "p.parquet").read_bytes())
    (tmp_path / "p.json").write_text(json.dumps(rows))
    columns = {"category": "kind"}
    loaded = {}
    for address in (
        tmp_path / "p.jsonl",
        "memory://bucket/p.jsonl",
        "memory://bucket/p.parquet",
        f"file://{tmp_path}/p.json",
    ):
        source = FilePrompts.model_validate({"path": str(address), "columns": columns})
        assert FilePrompts.model_validate(source.model_dump(mode="json")) == source
        loaded[str(address)] = load_prompts([source], keep).prompts
    first, *others = loaded.values()
    assert [prompt.source for prompt in first] == ["p", "p"]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("memory://bucket/none.jsonl", "cannot be read: FileNotFoundError"),
        ("memory://bucket/bad.jsonl", "bad.jsonl, line 1: not JSON"),
        ("memory://bucket/prompts.txt", "prompts.txt is of no kind that is read"),
        ("nosuch://bucket/p.jsonl", "Protocol not known: nosuch"),
    ],
)
def test_a_wrong_address_is_named(address: str, problem: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/bad.jsonl", b"{")
    source = FilePrompts.model_validate({"path": address})
    with pytest.raises(ValueError, match=re.escape(problem)):
        load_prompts([source], keep)
