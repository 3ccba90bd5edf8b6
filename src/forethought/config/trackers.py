"""Where a run's figures are shown besides its report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from forethought.config.base import ConfigModel


class TrackerConfig(ConfigModel):
    """One tracker that follows the run directory. It decides nothing about the run."""

    type: Literal["tensorboard", "wandb", "mlflow", "trackio"]
    """Each needs its own package; a missing one costs a warning, never the run."""
    project: str = Field(default="forethought", min_length=1)
    """Project of Weights & Biases and trackio, experiment of MLflow."""
    name: str | None = None
    """Name of the run there; the run directory's name by default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Handed to the tracker as it is: to `SummaryWriter`, `wandb.init` (`mode: offline`),
    `trackio.init` (`space_id`), or accelerate's `MLflowTracker`; for MLflow also `tracking_uri`.
    No keys or tokens: the run directory keeps what stands here."""
