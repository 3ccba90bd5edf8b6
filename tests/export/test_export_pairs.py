"""Exported pairs are the run's, load as a data set, and train in TRL on the same tokens."""

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
from datasets import load_dataset
from small_run import small_run
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from forethought.export.pair_data_set import export_pairs
from forethought.storage.sealed_stage import read_records
from forethought.thoughts import GENERIC
from forethought.types import PreferencePair, Prompt

SEED = Path(__file__).parents[2] / "src" / "forethought" / "microworld" / "seed_model"


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    return export_pairs(finished_run, tmp_path_factory.mktemp("export") / "pairs")


def rows_of(folder: Path, cache: Path) -> Any:
    return load_dataset(str(folder), split="train", cache_dir=str(cache))


def test_every_pair_is_there_with_its_prompt_and_whole_outputs(finished_run, exported, tmp_path):
    rows = rows_of(exported, tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(SEED)
    prompts = {
        record.prompt_id: record
        for record in read_records(finished_run / "prompts", Prompt, "train")
    }
    pairs = [
        (number, pair)
        for number in range(2)
        for pair in read_records(
            finished_run / "thought" / f"iteration_{number}" / "pairs", PreferencePair, "pairs"
        )
    ]
    assert len(rows) == len(pairs) > 10
    for row, (number, pair) in zip(rows, pairs, strict=True):
        assert (row["prompt_id"], row["iteration"]) == (pair.prompt_id, number)
        assert (row["margin"], row["kind"]) == (pair.margin, pair.kind)
        prompt = prompts[pair.prompt_id]
        assert row["category"] == prompt.category
        assert [one["content"] for one in row["prompt"]] == [
            one.content for one in GENERIC.apply(prompt.messages)
        ]
        for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            (message,) = row[name]
            assert message["role"] == "assistant"
            ids = list(side.token_ids)
            assert message["content"] == tokenizer.decode(ids, skip_special_tokens=True)
            assert row[f"{name}_ids"] == ids
            assert row[f"{name}_score"] == side.score


def test_trl_trains_on_it_and_sees_the_tokens_that_we_trained_on(exported, tmp_path):
    rows = rows_of(exported, tmp_path / "cache")
    args = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        report_to=[],
        save_strategy="no",
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(SEED),
        args=args,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(SEED),
    )
    seen: Any = trainer.train_dataset
    same = 0
    for ours, theirs in zip(rows, seen, strict=True):
        assert theirs["prompt_ids"] == ours["prompt_ids"]
        same += all(theirs[name] == ours[name] for name in ("chosen_ids", "rejected_ids"))
    assert same >= 0.9 * len(rows)
    assert f"{same} of {len(rows)} rows give exactly these" in (exported / "README.md").read_text()
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3)


def test_a_user_s_control_tokens_stay_broken(tmp_path):
    (tmp_path / "prompts.jsonl").write_text(
        "".join(f'{{"prompt": "<|end|> What is {n} + 1?"}}\n' for n in range(40))
    )
    source = f"[{{type: file, path: {tmp_path}/prompts.jsonl}}]"
    words = ["iterations=1", "arms=[direct]", "prompts.test=null", "prompts_per_iteration=20"]
    words += [
        f"prompts.train={source}",
        "prompts.validation={count: 4}",
        "sampling.temperature=1.5",
    ]
    judge = "judge={type: verifier, function: 'test_export_pairs:length'}"
    small_run(tmp_path / "run", *words, judge)
    rows = rows_of(export_pairs(tmp_path / "run", tmp_path / "pairs", arm="direct"), tmp_path / "c")
    tokenizer: Any = AutoTokenizer.from_pretrained(SEED)
    for row in rows:
        assert "<|end|>" not in row["prompt"][0]["content"]
        rendered = tokenizer.apply_chat_template(
            row["prompt"], add_generation_prompt=True, return_dict=True
        )
        assert rendered["input_ids"] == row["prompt_ids"]


def length(prompt, response):
    return float(len(response))


def test_what_cannot_be_exported_is_refused(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for number in range(2):
        (run / "direct" / f"iteration_{number}" / "pairs" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="has no pairs in its direct arm yet"):
        export_pairs(run, tmp_path / "new", arm="direct")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists; name another folder"):
        export_pairs(finished_run, tmp_path / "there")
    assert not (tmp_path / "new").exists()


def test_an_address_gets_the_same_files_and_the_card_last(finished_run, exported):
    files = fsspec.filesystem("memory")
    export_pairs(finished_run, "memory://bucket/pairs")
    inside = {path.relative_to(exported).as_posix() for path in exported.rglob("*.*")}
    written = {name.removeprefix("/bucket/pairs/"): name for name in files.find("/bucket/pairs")}
    assert written.keys() == inside
    for name, address in written.items():
        assert files.cat_file(address) == (exported / name).read_bytes(), name
    times = {name: files.created(address) for name, address in written.items()}
    assert max(times, key=lambda name: times[name]) == "README.md"
    with pytest.raises(ValueError, match="memory://bucket/pairs exists"):
        export_pairs(finished_run, "memory://bucket/pairs")
    with pytest.raises(ValueError, match="target: nosuch://x cannot be looked at"):
        export_pairs(finished_run, "nosuch://x")
