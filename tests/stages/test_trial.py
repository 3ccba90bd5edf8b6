"""What cannot be trained is said before anything is sampled."""

from pathlib import Path

import pytest
from own_code import save_own
from rich.console import Console
from small_run import small_recipe

from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter

BROKEN = """

class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden):
        return hidden / 2

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("no backward on this device")


def halved(hidden):
    return NoBackward.apply(hidden)
"""


def test_a_model_without_a_backward_pass_stops_the_run_before_sampling(tmp_path: Path):
    folder = save_own(tmp_path / "seed")
    (folder / "halves.py").write_text("import torch\n" + BROKEN)
    recipe = small_recipe(
        tmp_path / "run",
        f"model={{path: {folder}, dtype: float32, trust_remote_code: true}}",
        "arms=[direct]",
    )
    with pytest.raises(
        ValueError, match=r"cannot be trained in bfloat16 .*no backward on this"
    ) as e:
        run_recipe(recipe, Reporter(Console(quiet=True)))
    assert "nothing was sampled yet" in str(e.value)
    assert not list(recipe.run.glob("*/iteration_0/rollouts/*"))
    assert not (recipe.run / "evaluation").exists()
