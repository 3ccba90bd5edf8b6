"""Before the first iteration: a model teaches itself the thought format."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from forethought.config.base import ConfigModel, Operational

FULL_RATE = 2e-5
LORA_RATE = 2e-4
"""Common rates of supervised fine-tuning, full and with LoRA (Schulman et al. 2025, "LoRA Without
Regret", for the factor of ten)."""
DEFAULT = "default"
"""The demonstrations that come with the package."""


class WarmStartConfig(ConfigModel):
    """Teach a model the thought format before the first iteration, each arm in the same way.

    Outputs are sampled with demonstrations before the prompt; those that parse are kept, the best
    by judge first; the model is trained to write them without the demonstrations. The trained model
    is policy 0 of its arm, and the plain seed is measured beside it. What is not said here is as in
    `sampling` and `training`."""

    demonstrations: str = DEFAULT
    """`default`: four neutral ones in the package. Or a JSON-lines file of your own, each record
    with `prompt` or `messages`, `thought` and `response`; the direct arm is shown them without
    their thoughts."""
    prompts: int = Field(default=512, ge=1)
    """Training prompts to sample, which iterations do not use again."""
    samples: int = Field(default=8, ge=0)
    """Outputs for each. 0: nothing is sampled, and what is trained on are the records of the file
    itself, as in plain supervised fine-tuning."""
    keep: int = Field(default=2, ge=1)
    """Outputs of a prompt that are trained on, at most."""
    keep_by: Literal["judge", "parse"] = "judge"
    """Of those that parse, `judge` keeps the best and `parse` the first that were drawn."""
    epochs: int = Field(default=2, ge=1)
    """Passes over what was kept; the last one's checkpoint is policy 0."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate: 2e-5 by default, and 2e-4 with `training.lora`."""
    batch_size: int = Field(default=16, ge=1)
    """Outputs per optimizer step."""
    max_unparsed: Annotated[float, Operational] = Field(default=0.5, ge=0, le=1)
    """The run stops where more of the trained model's outputs than this have no response, on
    prompts that it was not trained on."""

    @property
    def prompts_used(self) -> int:
        """Training prompts that iterations do not get."""
        return self.prompts if self.samples else 0

    @property
    def judges(self) -> bool:
        """Whether the judge chooses what is kept."""
        return self.samples > 0 and self.keep_by == "judge"

    @model_validator(mode="after")
    def _there_is_something_to_train_on(self) -> Self:
        if self.samples == 0 and self.demonstrations == DEFAULT:
            raise ValueError(
                "samples: with 0 the records of demonstrations are trained on, and those of the "
                "package are too few; give warm_start.demonstrations a file of your own, or "
                "samples: 1 or more"
            )
        return self
