"""A whole recipe, and its mistakes in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from forethought.config.engines import (
    OpenAIEngine,
    ScriptedEngine,
    TransformersEngine,
    VllmEngine,
)
from forethought.config.judges import JudgeConfig
from forethought.config.shape import DType, ModelConfig, Operational, Shape
from forethought.types import Arm


class ColumnsConfig(Shape):
    """Which columns of a file or data set mean what."""

    prompt: str = "prompt"
    """A string, a list of `{role, content}` messages, or a list of user turns."""
    input: str | None = None
    """A second text column put below the prompt after a blank line, when it is not empty."""
    category: str | None = None
    """Column with a category, shown in the report."""
    reference: str | None = None
    """Column with what a verifier compares with."""


class FilePrompts(Shape):
    """JSONL or Parquet on disk."""

    type: Literal["file"] = "file"
    path: Path
    """A `.jsonl`, `.json` or `.parquet` file."""
    columns: ColumnsConfig = ColumnsConfig()
    source: str | None = None
    """Name of this source in records and reports; the file's stem by default."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many records."""


class DatasetPrompts(Shape):
    """A Hugging Face `datasets` name or a folder that `load_dataset` or `load_from_disk` reads."""

    type: Literal["datasets"] = "datasets"
    name: str
    """Hub name or folder."""
    split: str = "train"
    """Split of the data set."""
    subset: str | None = None
    """Configuration name of the data set."""
    columns: ColumnsConfig = ColumnsConfig()
    source: str | None = None
    """Name of this source in records and reports; the data set's name by default."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many records."""


class MicroworldPrompts(Shape):
    """Prompts made by the embedded microworld."""

    type: Literal["microworld"] = "microworld"
    split: Literal["train", "validation", "test"] = "train"
    """The three splits share no prompt."""
    count: int = Field(ge=1)
    """How many prompts to make."""


PromptSource = Annotated[
    FilePrompts | DatasetPrompts | MicroworldPrompts, Field(discriminator="type")
]


class HeldOut(Shape):
    """Prompts that are never trained on."""

    count: int = Field(ge=1)
    """How many prompts."""
    sources: tuple[PromptSource, ...] = ()
    """Where they come from; empty: taken out of the training sources before any slice is made."""


class PromptsConfig(Shape):
    """Where prompts come from."""

    train: tuple[PromptSource, ...] = Field(min_length=1)
    """Sources of the training prompts, concatenated and deduplicated."""
    validation: HeldOut
    """Choose the epoch on these."""
    test: HeldOut | None = None
    """Reported, never used for a choice."""


class SamplingShape(Shape):
    """What all samplers share."""

    samples: int = Field(default=8, ge=2)
    """K, outputs per prompt. A pair needs two."""
    temperature: float = Field(default=0.8, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus mass."""
    max_new_tokens: int = Field(default=2048, ge=1)
    """Token limit of an output, the end token included."""
    part_size: int = Field(default=256, ge=1)
    """Prompts per part: what is redone at most after a kill."""


class TransformersSampling(SamplingShape, TransformersEngine):
    """Sample the policy in the embedded engine."""


class VllmSampling(SamplingShape, VllmEngine):
    """Sample the policy in vLLM."""


class OpenAISampling(SamplingShape, OpenAIEngine):
    """Sample the policy at a server that serves it."""

    command: Annotated[str | None, Operational] = None
    """Starts a server for each policy, such as `vllm serve {model} --port {port}`; with
    `base_url: http://localhost:{port}/v1`. Without it the server has to serve the policy already,
    which only the seed's can."""

    @model_validator(mode="after")
    def _one_port(self) -> Self:
        if self.command is None and "{port}" in self.base_url:
            raise ValueError("base_url has {port}, which only a command can fill; give the port")
        if self.command is not None:
            for place, text in (("command", self.command), ("base_url", self.base_url)):
                if "{port}" not in text:
                    raise ValueError(f"{place}: {text!r} lacks {{port}}, where the server listens")
            if "{model}" not in self.command:
                raise ValueError(f"command: {self.command!r} lacks {{model}}, what it is to serve")
        return self


class ScriptedSampling(SamplingShape, ScriptedEngine):
    """Sample from a file of replies."""


SamplingConfig = Annotated[
    TransformersSampling | VllmSampling | OpenAISampling | ScriptedSampling,
    Field(discriminator="type"),
]


class PairsConfig(Shape):
    """Best and worst of a prompt, with length control."""

    rho: float = Field(default=0.0, ge=0)
    """Weight of the response length, 0 to 0.5 in the paper; 0 is off."""
    max_unparsable: float = Field(default=0.1, ge=0, le=1)
    """Largest share of an iteration's pairs whose rejected side has no response."""


class LoraSettings(Shape):
    """Low-rank adapters instead of full fine-tuning."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: float = Field(default=32, gt=0)
    """Scale of the update."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Which linear layers."""


class TrainingConfig(Shape):
    """DPO on whole outputs. Values the paper does not publish are starting points, not its."""

    loss: Literal["sigmoid", "ipo", "ipo_sum", "sigmoid_norm"] = "sigmoid"
    """`sigmoid`: DPO. `ipo`: IPO on length-normalised log-probs; `ipo_sum`: IPO on summed ones.
    `sigmoid_norm`: DPO on length-normalised log-ratios."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of flipped preferences, for `sigmoid`."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the chosen output's negative log-likelihood."""
    nll_mean: Literal["sequence", "token"] = "sequence"
    """`sequence`: mean over pairs of each chosen output's mean (IRPO). `token`: mean over the
    batch's chosen tokens (TRL)."""
    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up, over all epochs of the iteration."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of steps with a rising rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """AdamW moments."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Clip the gradient's global norm."""
    epochs: int = Field(default=10, ge=1)
    """Each ends with a checkpoint that selection may choose."""
    batch_size: int = Field(default=64, ge=1)
    """Pairs per optimizer step."""
    tokens_per_microbatch: int = Field(default=16384, ge=1)
    """Token budget of a forward and backward pass: peak memory grows with it."""
    max_length: int | None = Field(default=None, ge=1)
    """Longest prompt + output in tokens; the model's context by default. Longer pairs are left
    out and counted."""
    dtype: DType = "bfloat16"
    """Number type of the matrix products; master weights and optimizer stay float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    lora: LoraSettings | None = None
    """Adapters; without it all weights are trained."""
    save_every: int = Field(default=50, ge=1)
    """Optimizer steps between resumable states."""


class AnswersConfig(Shape):
    """How a policy answers held-out prompts."""

    temperature: float = Field(default=0.8, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus mass."""
    samples: int = Field(default=1, ge=1)
    """Answers per prompt; their scores are averaged."""
    attempts: int = Field(default=3, ge=1)
    """Outputs without a response are sampled again up to so many times, then lose."""


class SelectionConfig(AnswersConfig):
    """Which epoch becomes the next policy: best mean judge score on validation prompts."""


class EvaluationConfig(AnswersConfig):
    """How each policy is scored on test prompts."""


class LaunchConfig(Shape):
    """Where stages run."""

    type: Literal["local"] = "local"
    process_per_stage: bool = False
    """A process of its own for each stage returns its memory by ending."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; its own default otherwise. Results repeat bit for bit at equal
    threads."""


class Recipe(Shape):
    """Everything that defines a run."""

    run: Path
    """The run directory."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of slices, samples and batches."""
    model: ModelConfig
    arms: tuple[Arm, ...] = Field(default=("thought", "direct"), min_length=1)
    """`direct` is the matched baseline without thoughts."""
    thought_format: str = "generic"
    """`generic`, `specific`, `tags`, or a YAML file with a format of your own."""
    iterations: int = Field(default=4, ge=1)
    """Rounds of sampling and training."""
    prompts_per_iteration: int = Field(default=5000, ge=1)
    """Fresh prompts of each round; no prompt is used twice."""
    prompts: PromptsConfig
    sampling: SamplingConfig
    judge: JudgeConfig
    cache: Path | None = None
    """File of verdicts already paid for, which runs may share; `cache.sqlite` in the run directory
    by default."""
    pairs: PairsConfig = PairsConfig()
    training: TrainingConfig = TrainingConfig()
    selection: SelectionConfig = SelectionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    launch: LaunchConfig = LaunchConfig()

    @property
    def baseline_arm(self) -> Arm:
        """The arm whose seed others are compared with by a judge without a scale."""
        return "direct" if "direct" in self.arms else self.arms[0]

    @model_validator(mode="after")
    def _arms_are_distinct(self) -> Recipe:
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms: {list(self.arms)} names an arm twice")
        if "thought" in self.arms and self.thought_format == "direct":
            raise ValueError("thought_format: 'direct' has no thoughts; leave the arm out instead")
        return self


class SamplePart(Shape):
    """What `forethought sample` needs of a recipe."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the samples."""
    model: ModelConfig | None = None
    """The model, for engines that load one themselves."""
    thought_format: str = "direct"
    """`direct`, `generic`, `specific`, `tags`, or a YAML file with a format of your own."""
    sampling: SamplingConfig

    @model_validator(mode="after")
    def _engine_has_its_model(self) -> Self:
        if self.model is None and self.sampling.type in ("transformers", "vllm"):
            raise ValueError(f"sampling.type {self.sampling.type} loads a model; give model.path")
        return self


class JudgePart(Shape):
    """What `forethought judge` needs of a recipe."""

    judge: JudgeConfig
    cache: Path | None = None
    """File of verdicts already paid for, kept and shared when named."""


TYPES = {
    one.model_fields["type"].default
    for union in (PromptSource, SamplingConfig, JudgeConfig)
    for one in get_args(get_args(union)[0])
}
"""The words that choose among variants; pydantic puts them into an error's place."""


def explain(error: ValidationError) -> str:
    """A validation error as one line per mistake: field, what was given, what is allowed."""
    lines = []
    for mistake in error.errors():
        place = ".".join(str(step) for step in mistake["loc"] if step not in TYPES) or "recipe"
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = "there is no such field"
        given = "" if mistake["type"] == "missing" else f" (given: {mistake['input']!r:.80})"
        lines.append(f"{place}: {message}{given}")
    return "\n".join(lines)
