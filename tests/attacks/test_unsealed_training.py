"""A training that was stopped, and whose files were damaged meanwhile, ends with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import make_pairs, run, settings, tiny_model

from forethought.storage.written import WRITTEN
from forethought.training import train as training
from forethought.training.reference import reference_logprobs

CONFIG = settings(epochs=3, save_every=1, batch_size=4)
PAIRS = make_pairs(12)


class Stopped(BaseException):
    """Stands for the process's end."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    model: Any = tiny_model("llama")
    model.to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(model, PAIRS, CONFIG, folder)
    return folder


def stopped_at(model, folder, step):
    def stop(log):
        if log.step == step:
            raise Stopped

    with pytest.raises(Stopped):
        training.train(
            model=model,
            pairs=PAIRS,
            reference=reference_logprobs(model, PAIRS, CONFIG, device="cpu"),
            config=CONFIG,
            seed=0,
            directory=folder,
            device="cpu",
            on_step=stop,
        )


def weights(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for epoch in (1, 2, 3)
        for path in (folder / f"epoch_{epoch}").rglob("*")
        if path.is_file()
    }


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def fill(path):
    path.write_bytes(b"garbage")


@pytest.mark.parametrize("damage", [flip, cut, fill])
@pytest.mark.parametrize(
    "name",
    ["state/state.pt", "epoch_1/model.safetensors", "steps.jsonl", "fingerprint.json", WRITTEN],
)
def test_damage_between_two_attempts_is_noticed(model, undisturbed, tmp_path, name, damage, capfd):
    folder = tmp_path / "training"
    stopped_at(model, folder, 7)
    damage(folder / name)
    run(model, PAIRS, CONFIG, folder)
    assert weights(folder) == weights(undisturbed)
    said = capfd.readouterr().err
    assert "; kept as " in said
    logs = [(each / "steps.jsonl").read_text().count("\n") for each in (folder, undisturbed)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("name", ["result.json", "steps.jsonl", "epoch_2/config.json"])
def test_damage_after_the_last_step_is_noticed(model, undisturbed, tmp_path, name, capfd):
    folder = tmp_path / "training"
    run(model, PAIRS, CONFIG, folder)
    flip(folder / name)
    run(model, PAIRS, CONFIG, folder)
    assert weights(folder) == weights(undisturbed)
    assert f"{Path(name).parts[0]} is damaged; kept as" in capfd.readouterr().err
    run(model, PAIRS, CONFIG, folder)
    assert capfd.readouterr().err.count("damaged") == 0, "and then all is well"


def test_an_epoch_that_nobody_wrote_is_not_taken(model, undisturbed, tmp_path):
    folder = tmp_path / "training"
    stopped_at(model, folder, 4)
    (folder / "epoch_2").mkdir()
    (folder / "epoch_2/model.safetensors").write_bytes(b"theirs")
    run(model, PAIRS, CONFIG, folder)
    assert weights(folder) == weights(undisturbed)
    assert (folder / "epoch_2.stray/model.safetensors").read_bytes() == b"theirs"
