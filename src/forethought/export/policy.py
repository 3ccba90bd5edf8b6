"""A policy of a run as an ordinary Hugging Face folder, with its format and its card.

The folder loads with `AutoModelForCausalLM`, serves in vLLM, and says how to be prompted: weights
in the seed's own number type, the tokenizer, `thought_format.json`, a `generation_config.json` with
the settings of the run's sampling, and a `README.md` whose figures are the run's. Weights that are
rounded here are rounded so that what was learned stays (`masters.py`). An adapter is merged into
its base; `keep_adapter` adds it beside.

Everything is copied, nothing is linked: who edits an export must not edit a sealed stage.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from forethought.config import ModelConfig, ModelSource
from forethought.export.folder import Target, whole_target
from forethought.export.model_card import model_card
from forethought.models import loading, rendering
from forethought.models.model_files import model_files
from forethought.runs.layout import StageRef
from forethought.runs.policies import Which, choose
from forethought.storage.files import write_json
from forethought.storage.sealed_stage import check_part, read_manifest
from forethought.thoughts import save_format
from forethought.types import Arm


def export_policy(
    run: Path,
    target: Target,
    *,
    arm: Arm = "thought",
    policy: Which = "last",
    keep_adapter: bool = False,
) -> Target:
    """Write the folder; `policy` is a number, `best` (by test score) or `last`.

    Raises: ValueError if the run has no such policy or the target exists; StageError if a file of
    the policy does not match its seal.
    """
    chosen = choose(run, arm=arm, which=policy)
    chosen.check_policy()
    with whole_target(target) as folder:
        if chosen.policy_stage is None:
            _copy_seed(chosen.recipe.model, folder)
        else:
            _copy_trained(chosen, folder, keep_adapter=keep_adapter)
        save_format(chosen.thought_format, folder)
        rendering.save_template_variables(chosen.policy.template, folder)
        write_json(folder / "generation_config.json", generation_config(chosen))
        (folder / "README.md").write_text(model_card(chosen, policy, folder), encoding="utf-8")
    return target


def generation_config(chosen: StageRef) -> dict[str, object]:
    """How the run drew its answers, for transformers and vLLM.

    Nothing else shaped a sample there, so other settings of the seed's own file are left out.
    """
    recipe = chosen.recipe
    source = chosen.policy.source
    tokenizer = loading.load_tokenizer(source)
    declared = loading.generation_config(source)
    drawn = recipe.evaluation if recipe.prompts.test is not None else recipe.selection
    settings: dict[str, object] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": list(loading.end_token_ids(tokenizer, declared)),
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": drawn.temperature > 0,
        "max_new_tokens": recipe.sampling.max_new_tokens,
    }
    if drawn.temperature > 0:
        # transformers' own default of top_k is 50; the run had none.
        settings |= {"temperature": drawn.temperature, "top_p": drawn.top_p, "top_k": 0}
    return settings


def _copy_trained(chosen: StageRef, folder: Path, *, keep_adapter: bool) -> None:
    """The sealed files of the chosen checkpoint but the seed's card and bits beside weights."""
    stage = chosen.policy_stage
    assert stage is not None
    policy = chosen.policy.source
    own = loading.stored_dtype(chosen.recipe.model.source)
    alone = loading.find_adapter(policy) is not None
    # An adapter is merged and float32 is rounded to the seed's type: neither's weights are copied.
    anew = alone or (loading.stored_dtype(policy) == "float32" and own != "float32")
    for part in read_manifest(stage).parts:
        inside = Path(part.name)
        if inside.parts[0] != "policy" or inside.name == "README.md":
            continue
        check_part(stage, part)
        if inside.parts[1] == loading.ADAPTER and not keep_adapter:
            continue
        whole = len(inside.parts) == 2 and ".safetensors" in inside.name
        if inside.is_relative_to("policy" / loading.RESTS.parent) or (anew and whole):
            continue
        copy = folder / inside.relative_to("policy")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stage / inside, copy)
    if anew:
        _write_anew(policy, own, folder, merge=alone)


def _write_anew(policy: ModelSource, dtype: str, folder: Path, *, merge: bool) -> None:
    """Whole weights in another number type."""
    import torch

    from forethought.models.masters import rounded

    model = loading.merged(policy) if merge else None
    if model is None:
        model = loading.load_model(policy, dtype="float32", device="cpu")
    if dtype == "bfloat16":
        for parameter in model.parameters():
            # To the nearest, as the cast below rounds, much of what was learned would be lost.
            parameter.data = rounded(parameter.data)
    model.to(getattr(torch, dtype)).save_pretrained(folder)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _copy_seed(seed: ModelConfig, folder: Path) -> None:
    """The files of a local seed, or those of a hub's model as transformers writes them."""
    original = Path(loading.resolve(seed.source))
    if original.is_dir():
        for path in model_files(original):
            shutil.copyfile(path, folder / path.name)
        return
    dtype = loading.stored_dtype(seed.source)
    loading.load_model(seed.source, dtype=dtype, device="cpu").save_pretrained(folder)
    loading.load_tokenizer(seed.source).save_pretrained(folder)
