"""Sealed stages: identity, seal, damage, a full disk."""

import pytest

from forethought.storage.open_stage import Stage
from forethought.storage.records import from_table, to_table
from forethought.storage.sealed_stage import StageError, read_manifest, read_records
from forethought.types import (
    Completion,
    Judgement,
    Message,
    ParsedOutput,
    ParseStatus,
    Prompt,
    Rollout,
)

PROMPTS = [
    Prompt(
        prompt_id=f"{i:016x}",
        messages=(Message(role="user", content=f"问 {i} 🙂\u202e"),),
        category=None if i % 2 else "maths",
        source="test",
        reference=None,
    )
    for i in range(5)
]


def open_stage(folder, **changes):
    options = {"name": "prompts", "version": 1, "config": {"seed": 1, "deep": {"a": [1, 2]}}}
    return Stage(folder, **(options | changes))


def sealed(folder, **changes):
    stage = open_stage(folder, **changes)
    stage.write_records("part_00000", PROMPTS[:3], Prompt)
    stage.write_records("part_00001", PROMPTS[3:], Prompt)
    stage.seal({"prompts": 5})
    return stage


def test_records_survive_the_round_trip(tmp_path):
    sealed(tmp_path / "a")
    assert read_records(tmp_path / "a", Prompt) == PROMPTS
    assert read_records(tmp_path / "a", Prompt, "part_00001") == PROMPTS[3:]


def test_nested_records_and_empty_tables_keep_their_types():
    rollout = Rollout(
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=(),
        completion=Completion(text="x", token_ids=(1, 2), finish_reason="stop"),
        parsed=ParsedOutput(
            status=ParseStatus.COMPLETE, thought=None, response="x", response_offset=0
        ),
        response_start=0,
        response_tokens=1,
    )
    again = from_table(to_table([rollout], Rollout), Rollout)
    assert again == [rollout]
    assert again[0].parsed.status is ParseStatus.COMPLETE
    assert from_table(to_table([], Judgement), Judgement) == []
    with pytest.raises(ValueError, match="are not those of Prompt"):
        from_table(to_table([rollout], Rollout), Prompt)


def test_an_unsealed_stage_cannot_be_read(tmp_path):
    stage = open_stage(tmp_path / "a")
    stage.write_records("part_00000", PROMPTS, Prompt)
    with pytest.raises(StageError, match="not finished"):
        read_records(tmp_path / "a", Prompt)


def test_the_same_work_has_the_same_digest_and_other_work_another(tmp_path):
    sealed(tmp_path / "a")
    sealed(tmp_path / "b")
    sealed(tmp_path / "c", config={"seed": 2})
    a, b, c = (read_manifest(tmp_path / x).digest for x in "abc")
    assert a == b != c


def test_other_work_is_refused_field_by_field(tmp_path):
    sealed(tmp_path / "a")
    with pytest.raises(StageError) as error:
        open_stage(tmp_path / "a", config={"seed": 7, "deep": {"a": [1, 2]}})
    assert "config.seed: there 1, asked for 7" in str(error.value)
    assert "deep" not in str(error.value)
    assert "run=" in str(error.value)


def test_a_changed_input_is_refused(tmp_path):
    sealed(tmp_path / "a")
    Stage(tmp_path / "b", name="next", version=1, config={}, inputs=[tmp_path / "a"])
    (tmp_path / "a").rename(tmp_path / "old")
    sealed(tmp_path / "a", config={"seed": 2})
    with pytest.raises(StageError, match="inputs"):
        Stage(tmp_path / "b", name="next", version=1, config={}, inputs=[tmp_path / "a"])


@pytest.mark.parametrize("damage", ["delete", "flip", "shorten"])
def test_damage_in_a_sealed_stage_is_named_with_the_way_out(tmp_path, damage):
    sealed(tmp_path / "a")
    part = tmp_path / "a" / "part_00001.parquet"
    content = bytearray(part.read_bytes())
    if damage == "delete":
        part.unlink()
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    else:
        part.write_bytes(content[:-3])
    with pytest.raises(StageError, match=r"part_00001\.parquet is (missing|damaged).*--repair"):
        read_records(tmp_path / "a", Prompt)
