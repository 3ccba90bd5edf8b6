"""A whole recipe, and the parts of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from forethought.config.base import ConfigModel, ModelConfig, Operational
from forethought.config.engines import SamplingConfig, TransformersSampling
from forethought.config.evaluation import EvaluationConfig, MeasuresConfig, SelectionConfig
from forethought.config.judges import JudgeConfig
from forethought.config.prompts import PromptsConfig
from forethought.config.trackers import TrackerConfig
from forethought.config.training import HybridConfig, PairsConfig, TrainingConfig
from forethought.config.warm_start import FULL_RATE, LORA_RATE, WarmStartConfig
from forethought.config.workers import RayConfig
from forethought.types import Arm


class LaunchConfig(ConfigModel):
    """Where stages run. Nothing here is part of what a stage's folder is known by, so a run may be
    resumed with other numbers of processes."""

    type: Literal["local", "torchrun", "ray"] = "local"
    """`local`: all in one process. `torchrun`: `reference` and `training` by several processes of
    this machine, the model sharded over them (FSDP2). `ray`: the same on the nodes of a Ray
    cluster, all of which see the run directory under one path."""
    processes: int | None = Field(default=None, ge=1)
    """How many train together, one for each GPU; for `torchrun` and `ray`."""
    process_per_stage: bool = False
    """A process of its own for each stage returns its memory by ending."""
    keep_engines: bool = False
    """Keep policy, judge and masters of training in memory between stages. Small iterations then
    cost what they compute; memory must hold all of them."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch in each process; its own default otherwise. Results repeat bit for bit
    at equal threads."""
    ray: RayConfig = RayConfig()
    """The cluster of `sampling.workers`, `judge.workers` and `type: ray`."""

    @model_validator(mode="after")
    def _engines_have_a_process(self) -> Self:
        if self.keep_engines and self.process_per_stage:
            raise ValueError(
                "keep_engines keeps what process_per_stage throws away with each process; leave "
                "one of them out"
            )
        return self

    @model_validator(mode="after")
    def _processes_fit_the_type(self) -> Self:
        if self.type == "local" and self.processes is not None:
            raise ValueError(
                f"processes {self.processes} needs a launcher: give launch.type torchrun or ray, "
                "or leave launch.processes out (local is one process)"
            )
        if self.type != "local" and self.processes is None:
            raise ValueError(
                f"type {self.type} needs launch.processes, the number of processes that train "
                "together: one for each GPU"
            )
        return self


class KeepEvery(ConfigModel):
    """Keep some policies for good."""

    every: int = Field(ge=1)
    """Iterations from one kept policy to the next."""

    def __str__(self) -> str:
        return f"{{every: {self.every}}}"


def _keep(given: Any) -> Any:
    """One clear error for what is neither a word nor a number of iterations."""
    if isinstance(given, dict | KeepEvery) or given in ("all", "last", "best"):
        return given
    raise ValueError("give all, last, best, or {every: n}")


class Recipe(ConfigModel):
    """Everything that defines a run."""

    run: Path
    """The run directory."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of slices, samples and batches."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = ()
    """Several in place of `seed`: each is a run of its own, `RUN/seed_0` and so on, one after the
    other; the report sets them side by side, with an interval over seeds."""
    model: ModelConfig
    arms: tuple[Arm, ...] = Field(default=("thought", "direct"), min_length=1)
    """`direct` is the matched baseline without thoughts; `hybrid` is one policy that thinks before
    some answers and gives others at once."""
    thought_format: str = "generic"
    """`generic`, `specific`, `tags`, `tokens`, or a YAML file with a format of your own."""
    iterations: int = Field(default=4, ge=0)
    """Rounds of sampling and training. 0: nothing is trained; the model as it is answers the test
    prompts in each arm's format."""
    prompts_per_iteration: int = Field(default=5000, ge=1)
    """Fresh prompts of each round; no prompt is used twice."""
    prompts: PromptsConfig
    sampling: SamplingConfig = TransformersSampling()
    """How and where the policy's outputs are drawn."""
    judge: JudgeConfig
    """What scores the responses."""
    cache: Path | None = None
    """File of verdicts already paid for, which runs may share; `cache.sqlite` in the run directory
    by default."""
    warm_start: WarmStartConfig | None = None
    """Teach the thought format first; for models most of whose outputs have no response."""
    hybrid: HybridConfig = HybridConfig()
    pairs: PairsConfig = PairsConfig()
    training: TrainingConfig = TrainingConfig()
    selection: SelectionConfig = SelectionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    measures: MeasuresConfig = MeasuresConfig()
    keep: Annotated[
        Literal["all", "last", "best"] | KeepEvery, BeforeValidator(_keep), Operational
    ] = "all"
    """Whose weights stay on disk; the last policy's always do. `all`: those of every epoch. `last`:
    no others. `best`: also those of each arm's highest validation score. `every: n`: also every
    n-th policy's. Outputs, judgements, pairs and logs always stay."""
    trackers: Annotated[tuple[TrackerConfig, ...], Operational] = ()
    """Show the run in TensorBoard, Weights & Biases, MLflow or trackio while it goes on."""
    launch: LaunchConfig = LaunchConfig()

    @property
    def baseline_arm(self) -> Arm:
        """The arm whose seed others are compared with by a judge without a scale."""
        return "direct" if "direct" in self.arms else self.arms[0]

    @property
    def first_prompt(self) -> int:
        """Training prompts before those of the first iteration."""
        return 0 if self.warm_start is None else self.warm_start.prompts_used

    @property
    def warm_training(self) -> TrainingConfig:
        """How the warm start trains: as iterations do, but for its own settings."""
        warm = self.warm_start
        assert warm is not None
        rate = FULL_RATE if self.training.lora is None else LORA_RATE
        own = {
            "epochs": warm.epochs,
            "learning_rate": warm.learning_rate or rate,
            "batch_size": warm.batch_size,
            "loss_on": "output",
        }
        return self.training.model_copy(update=own)

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The policies that are scored on the test prompts, 0 being the first."""
        every = self.evaluation.every
        return tuple(
            index
            for index in range(self.iterations + 1)
            if index % every == 0 or index == self.iterations
        )

    @model_validator(mode="after")
    def _something_is_done(self) -> Recipe:
        if self.iterations == 0 and self.warm_start is None and self.prompts.test is None:
            raise ValueError(
                "iterations: with 0 nothing is trained and only test prompts are answered; give "
                "prompts.test, or iterations: 1 or more"
            )
        chosen = self.iterations > 0 and self.selection.by == "judge"
        if chosen and self.prompts.validation.count == 0:
            raise ValueError(
                "prompts.validation: there are none, and on them the epoch is chosen; give "
                "prompts.validation.count, or selection.by: last"
            )
        return self

    @model_validator(mode="after")
    def _a_pair_needs_two(self) -> Recipe:
        if self.sampling.samples < 2:
            raise ValueError(
                "sampling.samples: give a whole number of at least 2, since one output of a "
                f"prompt makes no pair (given: {self.sampling.samples})"
            )
        return self

    @model_validator(mode="after")
    def _there_are_thoughts_to_shuffle(self) -> Recipe:
        if self.pairs.thoughts == "shuffled" and "thought" not in self.arms:
            raise ValueError(
                "pairs.thoughts: shuffled gives outputs the thoughts of other prompts, and arms: "
                f"{list(self.arms)} has no thoughts; add the arm thought, or leave pairs.thoughts "
                "out"
            )
        return self

    @model_validator(mode="after")
    def _modes_have_their_arm(self) -> Recipe:
        if "hybrid" in self.arms:
            self._refuse_for_hybrid()
            return self
        given = {
            "pairs.mode_margin": self.pairs.mode_margin > 0,
            "pairs.counterfactual": self.pairs.counterfactual,
        } | {
            f"hybrid.{field}": getattr(self.hybrid, field) != usual.default
            for field, usual in HybridConfig.model_fields.items()
        }
        for field, there in given.items():
            if there:
                raise ValueError(
                    f"{field} is of the arm hybrid, and arms: {list(self.arms)} lacks it; add it, "
                    f"or leave {field} out"
                )
        return self

    def _refuse_for_hybrid(self) -> None:
        if not self.sampling.forces_modes:
            raise ValueError(
                f"sampling.type {self.sampling.type} cannot make an output think or keep it from "
                "it, which the arm hybrid needs; use sampling.type: transformers, or leave that "
                "arm out of arms"
            )
        if not self.training.prefers:
            raise ValueError(
                "training.loss: nll learns whole outputs, and of the arm hybrid's the opening is "
                "forced and no example; give another training.loss, or leave that arm out of arms"
            )
        if self.training.loss_on == "thought":
            raise ValueError(
                "training.loss_on: thought trains on thoughts alone, and half of the arm hybrid's "
                "outputs have none; leave training.loss_on out, or that arm out of arms"
            )

    @model_validator(mode="after")
    def _there_are_thoughts_to_train_on(self) -> Recipe:
        if self.training.loss_on == "thought" and "thought" not in self.arms:
            raise ValueError(
                f"training.loss_on: thought trains on thoughts alone, and arms: {list(self.arms)} "
                "has none; add the arm thought, or leave training.loss_on out"
            )
        return self

    @model_validator(mode="after")
    def _measures_fit_the_engine(self) -> Recipe:
        self.measures.refuse(self.sampling)
        return self

    @model_validator(mode="after")
    def _best_has_a_score(self) -> Recipe:
        if self.keep == "best" and self.selection.by != "judge":
            raise ValueError(
                f"keep: best is the highest validation score, and selection.by {self.selection.by} "
                "takes none; use keep: last or every: n, or selection.by: judge"
            )
        return self

    @model_validator(mode="after")
    def _epochs_were_compared(self) -> Recipe:
        second = self.measures.second_judge
        if second is None or not second.epochs:
            return self
        if self.selection.by != "judge" or self.training.epochs == 1:
            by, epochs = self.selection.by, self.training.epochs
            raise ValueError(
                "measures.second_judge.epochs: says which epoch another judge would have chosen, "
                f"and with selection.by {by} and training.epochs {epochs} none is chosen by one; "
                "leave it out, or give selection.by: judge and training.epochs: 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _workers_keep_no_engine(self) -> Recipe:
        if not self.launch.keep_engines:
            return self
        for name, section in (("sampling", self.sampling), ("judge", self.judge)):
            if section.pool is not None:
                raise ValueError(
                    f"launch.keep_engines keeps those of this process, and {name}.workers load one "
                    f"for each stage; leave {name}.workers or launch.keep_engines out"
                )
        return self

    @model_validator(mode="after")
    def _arms_are_distinct(self) -> Recipe:
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms: {list(self.arms)} names an arm twice")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice")
        types = [tracker.type for tracker in self.trackers]
        if len(set(types)) != len(types):
            raise ValueError(f"trackers: {types} names a tracker twice")
        for arm in ("thought", "hybrid"):
            if arm in self.arms and self.thought_format == "direct":
                raise ValueError(
                    "thought_format: 'direct' has no thoughts; leave the arm out instead"
                )
        return self

    @model_validator(mode="after")
    def _optimizer_can_be_sharded(self) -> Recipe:
        if self.launch.type != "local" and self.training.optimizer != "adamw":
            raise ValueError(
                f"training.optimizer: {self.training.optimizer} works in one process; use adamw "
                f"with launch.type {self.launch.type}, which divides its states over the "
                "processes, or launch.type local"
            )
        return self

    @model_validator(mode="after")
    def _a_server_can_serve_what_is_trained(self) -> Recipe:
        training = self.training
        if (
            training.lora is not None
            and training.checkpoint_dtype == "masters"
            and self.sampling.is_server
        ):
            raise ValueError(
                "training.lora: policies are adapters apart from their base, and the server of "
                "sampling.command is given one whole folder; use training.checkpoint_dtype: "
                "float32, which merges them, or sampling.type vllm or transformers"
            )
        return self


class SamplePart(ConfigModel):
    """What `forethought sample` needs of a recipe."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the samples."""
    model: ModelConfig | None = None
    """The model, for engines that load one themselves."""
    thought_format: str = "direct"
    """`direct`, `generic`, `specific`, `tags`, `tokens`, or a YAML file with one of your own."""
    sampling: SamplingConfig = TransformersSampling()
    launch: Annotated[LaunchConfig, Operational] = LaunchConfig()
    """Threads, and the cluster of `sampling.workers`; nothing is trained."""

    @model_validator(mode="after")
    def _engine_has_its_model(self) -> Self:
        if self.model is None and self.sampling.loads_model:
            raise ValueError(f"sampling.type {self.sampling.type} loads a model; give model.path")
        return self


class JudgePart(ConfigModel):
    """What `forethought judge` needs of a recipe."""

    judge: JudgeConfig
    cache: Path | None = None
    """File of verdicts already paid for, kept and shared when named."""
    launch: Annotated[LaunchConfig, Operational] = LaunchConfig()
    """Threads, and the cluster of `judge.workers`; nothing is trained."""


class EvaluatePart(ConfigModel):
    """What `forethought evaluate` needs of a recipe."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the samples."""
    model: ModelConfig | None = None
    """How the policy is loaded; its `path` is the command's own argument."""
    thought_format: str = "direct"
    """Format of a policy whose folder has no `thought_format.json`."""
    sampling: SamplingConfig = TransformersSampling()
    """The engine and the token limit; temperature and such are the measure's own."""
    judge: JudgeConfig | None = None
    """For the measures that judge."""
    cache: Path | None = None
    """File of verdicts already paid for, kept and shared when named."""
    measures: MeasuresConfig = MeasuresConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _measures_fit_the_engine(self) -> Self:
        self.measures.refuse(self.sampling)
        return self
