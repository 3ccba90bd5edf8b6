"""Rotary positions that do not depend on what else is in a batch.

Two kinds of rotary embedding choose their frequencies by the longest position of a whole batch:
`longrope` (Phi-3.5, Phi-4-mini: short factors up to the length of the original training, long ones
beyond) and dynamic NTK, which also remembers the longest batch before. With them an output, a
log-prob or a score would depend on its neighbours, and a sequence that grows over the limit would
be read otherwise when it is trained on than when it was sampled. So the choice is made once, when
the model is loaded:

- short factors, and no sequence beyond the original length: what transformers computes for it;
- with `long_context`, long factors for every sequence, as vLLM does where its `max_model_len` is
  beyond the original length;
- dynamic NTK's own frequencies, those of all sequences within the model's context.
"""

from __future__ import annotations

from typing import Any

FIXED = "fixed"
"""Put in place of a module's `rope_type`: one for which transformers updates nothing."""
LONG = "reads_long_positions"
"""Attribute of a network that has its long factors."""
ORIGINAL = "original_max_position_embeddings"


def original_length(config: Any) -> int | None:
    """Longest sequence, in tokens, that longrope reads with its short factors; `None` for other
    models."""
    found = [
        int(parameter[ORIGINAL])
        for parameter in _parameters(config.get_text_config())
        if parameter.get("rope_type") == "longrope"
    ]
    return min(found, default=None)


def fix_positions(network: Any, *, long_context: bool) -> None:
    """Make the choice in every rotary module of a network.

    Raises: ValueError if `long_context` is asked for and the model has no long factors.
    """
    long = 0
    for module in network.modules():
        kinds = module.__dict__.get("rope_type")
        if isinstance(kinds, str):
            long += _fix(module, kinds, None, long_context)
            module.rope_type = FIXED if _depends(kinds) else kinds
        elif isinstance(kinds, dict):
            for layer_type, kind in kinds.items():
                long += _fix(module, kind, layer_type, long_context)
            module.rope_type = {
                key: FIXED if _depends(kind) else kind for key, kind in kinds.items()
            }
    if long_context and long:
        setattr(network, LONG, True)
    elif long_context:
        raise ValueError(
            "long_context: the model has no second set of position factors (longrope), so its "
            "whole context is there without it; leave it out"
        )


def _depends(kind: str | None) -> bool:
    return kind == "longrope" or "dynamic" in (kind or "")


def _fix(module: Any, kind: str | None, layer_type: str | None, long_context: bool) -> bool:
    """Put the long factors in where they are asked for; whether there are some."""
    if kind != "longrope":
        return False
    if long_context:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        prefix = "" if layer_type is None else f"{layer_type}_"
        held = getattr(module, f"{prefix}inv_freq")
        config = module.config
        parameters = config.rope_parameters
        original = (parameters if layer_type is None else parameters[layer_type])[ORIGINAL]
        options = {} if layer_type is None else {"layer_type": layer_type}
        frequencies, _ = ROPE_INIT_FUNCTIONS[kind](
            config, held.device, seq_len=original + 1, **options
        )
        held.data = frequencies.to(held.dtype)
    return True


def _parameters(text_config: Any) -> list[dict[str, Any]]:
    """The rotary settings of a config, one for all layers or one for each kind of them."""
    given = getattr(text_config, "rope_parameters", None) or {}
    if "rope_type" in given:
        return [given]
    return [settings for settings in given.values() if isinstance(settings, dict)]


def reads_long(network: Any) -> bool:
    """Whether `fix_positions` gave the network its long factors."""
    return network.__dict__.get(LONG, False)
