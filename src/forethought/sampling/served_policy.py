"""What makes a server's outputs fit to train on: it serves the policy itself and gives token ids.

The ids are vLLM's extension `return_token_ids`: the prompt's beside `choices` (SGLang: in each),
the output's in the choice, its end token included. The text is decoded from them here, as for every
engine, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from forethought.config import ModelConfig
from forethought.models import loading, rendering
from forethought.types import Completion, FinishReason, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ONLY_NUCLEUS: dict[str, Any] = {"top_k": -1, "min_p": 0, "repetition_penalty": 1}
"""Turns off what a server would add from the checkpoint's generation config."""
OTHER_ENGINES = "sample with type: vllm or type: transformers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPolicy:
    """The policy as it lies here, to hold a server's answers against.

    Example: `ServedPolicy.load(ModelConfig(path="runs/a/thought/iteration_0/selection/policy"))`
    """

    path: str
    identity: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]
    template: dict[str, Any]
    """Variables of the chat template, which the server fills in."""

    @classmethod
    def load(cls, model: ModelConfig) -> Self:
        """Raises: ValueError if there is no such model or tokenizer."""
        source = model.source
        tokenizer = loading.load_tokenizer(source)
        return cls(
            path=loading.resolve(source),
            identity=loading.identity(source),
            tokenizer=tokenizer,
            template=rendering.template_variables(model),
            end_ids=loading.end_token_ids(tokenizer, loading.generation_config(source)),
        )

    def check_served(self, served: str, server: str) -> None:
        """Raises: ValueError if the server's model is another one, such as an earlier policy."""
        if served == self.path or (
            Path(self.path).is_dir()
            and Path(served).expanduser().resolve() == Path(self.path).resolve()
        ):
            return
        raise ValueError(
            f"{server} serves {served}, and the policy to sample now is {self.path}; start the "
            f"server with that policy (vllm serve {self.path}), or {OTHER_ENGINES}"
        )

    def turns(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """The messages, harmless to this tokenizer as they are for every engine."""
        return rendering.as_turns(self.tokenizer, messages)

    def completion(
        self, token_ids: Sequence[int] | None, finish_reason: FinishReason, server: str
    ) -> Completion:
        """The output that these ids are.

        Raises: ValueError if there are none, or they do not end as `finish_reason` says.
        """
        if not token_ids:
            raise no_token_ids(server)
        if finish_reason == "stop" and token_ids[-1] not in self.end_ids:
            raise ValueError(
                f"{server} ended an output with token {token_ids[-1]} as its last; the policy's "
                f"outputs end with one of {sorted(self.end_ids)}. Leave stop words and stop tokens "
                f"out of extra_body and of the server's settings, or {OTHER_ENGINES}"
            )
        return Completion(
            text=rendering.decode(self.tokenizer, token_ids),
            token_ids=tuple(token_ids),
            finish_reason=finish_reason,
        )


def no_token_ids(server: str) -> ValueError:
    """The error for a server that cannot be trained on."""
    return ValueError(
        f"{server} gives no token ids (return_token_ids), so training cannot use its outputs; "
        f"serve the policy with vLLM, or {OTHER_ENGINES}"
    )
