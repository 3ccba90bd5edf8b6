"""Training a model whose code comes with its checkpoint."""

from pathlib import Path

from own_code import save_own
from tiny_training import make_pairs, settings

from forethought.config import ModelSource
from forethought.models import loading
from forethought.training.reference import reference_logprobs
from forethought.training.train import train


def test_a_checkpoint_trained_with_lora_brings_its_code(tmp_path: Path):
    source = ModelSource(path=str(save_own(tmp_path / "seed")), trust_remote_code=True)
    pairs = make_pairs(4)
    config = settings(lora={"rank": 2}, epochs=1)
    train(
        model=source,
        pairs=pairs,
        reference=reference_logprobs(source, pairs, config, device="cpu"),
        config=config,
        seed=0,
        directory=tmp_path / "training",
        device="cpu",
    )
    trained = ModelSource(path=str(tmp_path / "training" / "epoch_1"), trust_remote_code=True)
    model = loading.load_model(trained, dtype="float32", device="cpu")
    assert type(model).__name__ == "OwnForCausalLM"
