"""From judgements to the next policy: pairs and their training."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from forethought.config.base import ConfigModel, DType, Later


class PairsConfig(ConfigModel):
    """Best and worst of a prompt, with length control."""

    rho: float = Field(default=0.0, ge=0)
    """Weight of the response length, 0 to 0.5 in the paper; 0 is off."""
    thought_price: float = Field(default=0.0, ge=0)
    """Weight of the thought's length, markers included: of two outputs that score alike the one
    with the shorter thought is preferred. 0 is off, as in the paper."""
    mode_margin: float = Field(default=0.0, ge=0)
    """Of the arm `hybrid`: by how much of a normalised score an output that thinks has to beat one
    that does not. Above 0, where all score alike, the one that does not think is preferred."""
    counterfactual: bool = False
    """Of the arm `hybrid`: both sides of a pair are of different modes, so that what is learned is
    what the thought adds. One that thinks is chosen only where those of its prompt that think beat,
    in the mean, those that do not, by `mode_margin`; else the best of the others is."""
    max_unparsable: float = Field(default=0.1, ge=0, le=1)
    """Largest share of an iteration's pairs whose rejected side has no response."""
    thoughts: Literal["own", "shuffled"] = "own"
    """`own`: outputs are trained as they were sampled. `shuffled`: a control for the mere length of
    thoughts. Pairs are chosen as ever; then the thought tokens of each output are replaced by those
    of another prompt's output of the same iteration, of about the same length, and its response
    stays. So what is trained is not what was sampled. The direct arm has no thoughts and is as
    ever."""

    @property
    def shapes(self) -> bool:
        """Whether scores are changed before best and worst are taken."""
        return self.rho > 0 or self.thought_price > 0 or self.mode_margin > 0

    @property
    def of_one_mode(self) -> PairsConfig:
        """Without what is about modes, for arms that have one."""
        return self.model_copy(update={"mode_margin": 0.0, "counterfactual": False})


class HybridConfig(ConfigModel):
    """How the arm `hybrid` gets samples of both modes, with thought and without, of every prompt.

    A mode is forced at an output's opening: the thought marker is put there, or may not be drawn.
    What was forced is no training signal."""

    half: int = Field(default=2, ge=0)
    """So many first iterations force a mode on every sample, half of them to think. Their pairs are
    within a mode: what is learned is to think, and to answer at once, before it is learned when."""
    floor: float = Field(default=0.25, ge=0, le=0.5)
    """Later ones force so much of the samples into either mode, at least one of each where it is
    above 0; the policy decides about the others."""

    def forced(self, iteration: int, samples: int) -> int:
        """How many of a prompt's samples are forced into each of the two modes."""
        share = 0.5 if iteration < self.half else self.floor
        return min(samples // 2, ceil(Fraction(str(share)) * samples))


ALL = "all-linear"
HEADS = ("lm_head", "embed_out", "output_layer", "output_projection")
"""Names of the head in transformers' models."""


class LoraSettings(ConfigModel):
    """Low-rank adapters instead of full fine-tuning."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: float = Field(default=32, gt=0)
    """Scale of the update."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Which linear layers; never the head, whose weight the log-probs read as it is."""

    @field_validator("target_modules")
    @classmethod
    def _not_the_head(cls, given: Any) -> Any:
        heads = [name for name in given if name.split(".")[-1] in HEADS] if given != ALL else []
        if heads:
            raise ValueError(
                f"{', '.join(heads)} is the model's head, which an adapter here would not reach; "
                f"leave it out, or give {ALL}, which takes every linear layer but the head"
            )
        return given


FULL_RATE = 5e-7
LORA_RATE = 5e-6
"""Those of Zephyr's DPO recipes, full and with LoRA (alignment-handbook, zephyr-7b-beta). Adapters
want about ten times the rate of full fine-tuning (Schulman et al. 2025, "LoRA Without Regret")."""


class TrainingConfig(ConfigModel):
    """DPO on whole outputs. Values the paper does not publish are starting points, not its."""

    loss: Literal["sigmoid", "ipo", "ipo_sum", "sigmoid_norm", "nll"] = "sigmoid"
    """`sigmoid`: DPO. `ipo`: IPO on length-normalised log-probs; `ipo_sum`: IPO on summed ones.
    `sigmoid_norm`: DPO on length-normalised log-ratios. `nll`: no preference, as a control: the
    negative log-likelihood per token of the same pairs' chosen outputs alone. This is rejection
    sampling fine-tuning (Yuan et al. 2023), or expert iteration (Anthony et al. 2017); there is no
    reference then, and what is about preferences is not used."""
    loss_on: Annotated[Literal["output", "thought"], Later] = "output"
    """`output`: log-probs are sums over whole outputs. `thought`: over the tokens before the
    response alone, the marker behind the thought among them, for policy and reference alike; the
    response says only which thought was the better one (START, arXiv 2603.20799, trains so first).
    The direct arm and the warm start have whole outputs."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull towards the reference."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of flipped preferences, for `sigmoid`."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the chosen output's negative log-likelihood."""
    nll_mean: Literal["sequence", "token"] = "sequence"
    """`sequence`: mean over pairs of each chosen output's mean (IRPO). `token`: mean over the
    batch's chosen tokens (TRL)."""
    learning_rate: float = Field(default=FULL_RATE, gt=0)
    """Peak learning rate: 5e-7 by default, and 5e-6 with `lora`, which learns nothing at 5e-7."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up, over all epochs of the iteration."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of steps with a rising rate."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps AdamW's states in 8 bits by bitsandbytes, on a GPU; `paged_` may also move
    them to the host's memory."""
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
    checkpoint_dtype: DType | Literal["masters", "original"] = "masters"
    """How checkpoints keep the weights from which the next iteration starts. `masters`: as training
    left them, nothing lost; a bfloat16 model's in bfloat16 with their other bits beside, adapters
    apart from their base. A number type, or `original`, the model's own: whole weights rounded to
    it, adapters merged; in bfloat16 most of what a few steps learn is rounded away."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    lora: LoraSettings | None = None
    """Adapters; without it all weights are trained."""
    save_every: int = Field(default=50, ge=1)
    """Optimizer steps between resumable states."""

    @property
    def prefers(self) -> bool:
        """Whether both sides of a pair are trained on, against a reference."""
        return self.loss != "nll"

    @model_validator(mode="after")
    def _a_likelihood_is_of_whole_outputs(self) -> Self:
        if not self.prefers and self.loss_on == "thought":
            raise ValueError(
                "loss_on: thought has preferences on thoughts, and loss: nll has no preferences; "
                "leave training.loss_on out, or give another training.loss"
            )
        return self

    @model_validator(mode="after")
    def _the_likelihood_is_there_once(self) -> Self:
        if not self.prefers and self.nll_weight > 0:
            raise ValueError(
                f"nll_weight: {self.nll_weight:g} adds the negative log-likelihood to a loss on "
                "preferences, and loss: nll is nothing else; leave training.nll_weight out, or "
                "give another training.loss"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _rate_of_what_is_trained(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("learning_rate") is None:
            rate = FULL_RATE if given.get("lora") is None else LORA_RATE
            return given | {"learning_rate": rate}
        return given
