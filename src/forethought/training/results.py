"""What training takes besides pairs, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = "steps.jsonl"
"""The log in a training's folder, a `Step` or `StepLog` a line."""
LEAST_KEPT = 0.9
"""Where less of the learned margin is left, readers are warned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLogprobs:
    """Log-probs, in nats, of a pair's outputs under the iteration's starting policy.

    Example: `ReferenceLogprobs(prompt_id="9f2c…", chosen=-41.5, rejected=-60.2,
    chosen_response=-12.5, rejected_response=0.0)`
    """

    prompt_id: str
    chosen: float
    """Sum over all tokens of the output."""
    rejected: float
    chosen_response: float
    """Sum over the tokens from the response's first; 0 where there is no response."""
    rejected_response: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step. Everything but the two times repeats exactly after a resume.

    Of examples this is all the log has.

    Example: `Step(step=0, epoch=1, loss=1.71, grad_norm=2.3, learning_rate=1e-6, tokens=9100,
    seconds=4.0, tokens_per_second=2275.0)`
    """

    step: int
    """Counted from 0 over all epochs."""
    epoch: int
    """Counted from 1."""
    loss: float
    """Of examples the negative log-likelihood per output token, in nats."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    """Tokens of all sequences; the prompt of a pair counts twice."""
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog(Step):
    """One optimizer step on pairs.

    Rewards are implicit: `beta (log pi - log ref)`, means over the step's pairs, measured before
    the step's update. They are of what the loss is on (`training.loss_on`), but for those that
    name thought or response.

    Example: `StepLog(step=0, epoch=1, loss=0.6931, accuracy=0.0, margin=0.0, …)`
    """

    accuracy: float
    """Share of pairs with a positive margin."""
    margin: float
    chosen_reward: float
    rejected_reward: float
    chosen_thought_reward: float
    """The part of tokens before the response."""
    chosen_response_reward: float
    rejected_thought_reward: float
    rejected_response_reward: float
    chosen_nll: float
    """Negative log-prob per token of what the loss is on of chosen outputs."""
    pairs: int
    margin_kept: float | None = None
    """Of the last step of an epoch: the share of the learned margin that its checkpoint has when
    it is sampled (`margin.py`). `None` for other steps, and where nothing was learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a finished training was.

    Example: `TrainingResult(pairs=900, left_out=4, steps=150, epochs=10, tokens=1200000,
    way="packed", margin_kept=(0.99, 1.0))`
    """

    pairs: int
    """Pairs, or examples, trained on in each epoch."""
    left_out: int
    """Those longer than the limit."""
    steps: int
    epochs: int
    """`epoch_1` … are folders of the training directory."""
    tokens: int
    """Over all epochs."""
    way: str
    """How the model ran: `packed`, `padded` or `plain`."""
    margin_kept: tuple[float | None, ...]
    """`StepLog.margin_kept` of each epoch; none of a training on examples."""
