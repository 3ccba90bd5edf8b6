"""Where things stand in a run directory: every path of a stage is made here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forethought.config import (
    MeasuresConfig,
    ModelConfig,
    PairsConfig,
    Recipe,
    TrainingConfig,
)
from forethought.storage.sealed_stage import (
    StageError,
    check_files,
    is_begun,
    is_sealed,
    read_records,
)
from forethought.thoughts import DIRECT, ThoughtFormat, load_format
from forethought.types import Arm, Prompt, PromptPlace

ITERATION_STAGES = ("rollouts", "judgements", "pairs", "reference", "training", "selection")
"""The stages of one iteration, in order."""
WARM_START_STAGES = ("vocabulary", "rollouts", "judgements", "examples", "training", "selection")
"""Those of the warm start."""
WARM_START = -1
"""The index of what comes before iteration 0: stages of the warm start, which makes policy 0, and
the evaluation of the plain seed that it starts from."""
MEASURES = tuple(MeasuresConfig.model_fields)
"""Stages named as the sections of `measures`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRef:
    """One stage of one arm and iteration.

    Example: `StageRef(recipe=recipe, stage="rollouts", arm="thought", index=0)`
    """

    recipe: Recipe
    stage: str
    arm: Arm
    """The `prompts` stage serves both arms and names any."""
    index: int
    """The iteration; for `evaluation` and measures the policy, 0 being the first: the seed, or what
    the warm start made of it."""
    setting: str = ""
    """Of a measure that was taken again with other settings: what tells its folder apart."""

    @property
    def name(self) -> str:
        """Its folder below the run directory, such as `thought/iteration_0/rollouts`."""
        if self.stage == "prompts":
            return "prompts"
        warm = self.index == WARM_START
        if self.stage == "evaluation":
            return f"evaluation/{self.arm}/{'seed' if warm else f'policy_{self.index}'}"
        if warm:
            return f"{self.arm}/warm_start/{self.stage}"
        if self.stage in ITERATION_STAGES:
            return f"{self.arm}/iteration_{self.index}/{self.stage}"
        again = f"-{self.setting}" if self.setting else ""
        return f"measures/{self.stage}/{self.arm}/policy_{self.index}{again}"

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return self.recipe.run / self.name

    @property
    def sealed(self) -> bool:
        """Whether the stage is finished and may be read."""
        return is_sealed(self.folder)

    @property
    def begun(self) -> bool:
        """Whether the stage has been claimed for some work, which may be done."""
        return is_begun(self.folder)

    @property
    def label(self) -> str:
        """What a progress line calls it."""
        return self.label_of(str(self.index))

    def label_of(self, numbers: str) -> str:
        """The same of several iterations or policies."""
        if self.stage == "prompts":
            return "prompts"
        if self.index == WARM_START:
            what = "seed" if self.stage == "evaluation" else "warm start"
            return f"{self.arm} {what} {self.stage}"
        what = "iteration" if self.stage in ITERATION_STAGES else "policy"
        return f"{self.arm} {what} {numbers} {self.stage}"

    def beside(self, stage: str) -> Path:
        """Folder of another stage of the same arm and iteration."""
        return StageRef(recipe=self.recipe, stage=stage, arm=self.arm, index=self.index).folder

    @property
    def thought_format(self) -> ThoughtFormat:
        """The arm's format. A model may think by its template in the direct arm, too.

        Raises: ValueError if the recipe's format cannot be read, or does not allow the arm.
        """
        asked = load_format(self.recipe.thought_format)
        if self.arm == "thought":
            return asked
        if self.arm == "hybrid":
            return asked.as_hybrid()
        return DIRECT if asked.instruction is not None else asked.unasked()

    @property
    def grows(self) -> bool:
        """Whether the arm's warm start gives the seed tokens of its own, for markers."""
        return self.recipe.warm_start is not None and self.thought_format.markers_are_tokens

    @property
    def shuffles_thoughts(self) -> bool:
        """Whether the arm's pairs get other prompts' thoughts; the direct arm has none."""
        return self.recipe.pairs.thoughts == "shuffled" and self.arm == "thought"

    @property
    def pair_rules(self) -> PairsConfig:
        """How the arm's best and worst are told."""
        return self.recipe.pairs if self.arm == "hybrid" else self.recipe.pairs.of_one_mode

    @property
    def training(self) -> TrainingConfig:
        """How the arm's iterations train: on whole outputs where those have no thoughts."""
        training = self.recipe.training
        if self.arm == "thought":
            return training
        return training.model_copy(update={"loss_on": "output"})

    @property
    def policy_stage(self) -> Path | None:
        """The stage that gave this stage's policy, a selection as a rule; `None` for the seed."""
        # Outputs are sampled in words, which the plain seed knows and new tokens would disturb.
        plain = self.stage in ("vocabulary", "rollouts")
        if self.index == WARM_START and self.grows and not plain:
            return self.beside("vocabulary")
        if self.index == (0 if self.recipe.warm_start is None else WARM_START):
            return None
        before = self.index - 1
        return StageRef(recipe=self.recipe, stage="selection", arm=self.arm, index=before).folder

    @property
    def choice(self) -> Path | None:
        """The selection that chose this policy's epoch, where a second judge scores epochs too;
        `None` for a policy that no iteration trained."""
        second = self.recipe.measures.second_judge
        asked = second is not None and second.epochs and self.index > 0
        return self.policy_stage if asked else None

    @property
    def policy(self) -> ModelConfig:
        """The model that this stage samples or starts from."""
        seed, selection = self.recipe.model.of_arm(self.arm), self.policy_stage
        return seed if selection is None else seed.at(str(selection / "policy"))

    def check_policy(self) -> None:
        """See that the weights which this stage samples are there, and as they were sealed.

        Raises: StageError if they are not kept, or a file of them is damaged.
        """
        selection = self.policy_stage
        if selection is None or not is_sealed(selection):
            return
        if (selection / "policy").is_dir():
            check_files(selection, "policy/")
        else:
            raise StageError(
                f"the weights of {self.arm} policy {self.index} were dropped (keep: "
                f"{self.recipe.keep}); ask for one that is there, or make them again: remove "
                f"{selection.parent} and what came after it, and run the same command"
            )

    @property
    def baseline(self) -> StageRef:
        """The evaluation of the policy that a judge without a scale compares others with: the
        first, in the direct format where the run has that arm."""
        arm = self.recipe.baseline_arm
        return StageRef(recipe=self.recipe, stage="evaluation", arm=arm, index=0)

    @property
    def evaluations(self) -> tuple[StageRef, ...]:
        """The evaluations of this index's policies of thought arm and direct arm."""
        return tuple(
            StageRef(recipe=self.recipe, stage="evaluation", arm=arm, index=self.index)
            for arm in self.recipe.arms
            if arm != "hybrid"
        )

    def prompt_places(self) -> dict[str, str]:
        """File and line of each prompt of the run, by its id.

        Raises: StageError if the `prompts` stage is not sealed, or damaged.
        """
        places = read_records(self.beside("prompts"), PromptPlace, "places")
        return {place.prompt_id: place.where for place in places}

    def prompts(self, kind: str) -> list[Prompt]:
        """`train` (this iteration's slice, or the warm start's), `validation` or `test` prompts.

        Raises: StageError if the `prompts` stage is not sealed, or damaged.
        """
        first, count = self.recipe.first_prompt, self.recipe.prompts_per_iteration
        rows = None
        if kind == "train" and self.index == WARM_START:
            rows = slice(0, first)
        elif kind == "train":
            rows = slice(first + self.index * count, first + (self.index + 1) * count)
        return read_records(self.beside("prompts"), Prompt, kind, rows)
