"""A run's preference pairs as a data set in TRL's preference format.

One row per pair of an arm: `prompt`, `chosen` and `rejected` are lists of messages, the thought
instruction in the prompt and the whole sampled output, thought included, in the answers. The folder
loads with `datasets.load_dataset(folder)` and trains in TRL's `DPOTrainer` as it is.

What this run trained on were token ids, never rendered a second time; they are in the row, too.
TRL renders the messages with the model's chat template, which is not always the same: a template
may trim the answer or put a line break behind its end token, an output that was cut off has no end
token, and a tokenizer may cut a text otherwise than the model wrote it. The data set's card says
how many rows come out with exactly the ids that were trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forethought.config.recipe_files import load_run
from forethought.export import run_facts
from forethought.export.folder import Target, whole_target
from forethought.export.model_card import environment, front_matter
from forethought.models import loading, rendering
from forethought.models.template_limits import within_time
from forethought.runs.layout import StageRef
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.types import Arm, PairSide, PreferencePair, Prompt, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILES = "data/*.parquet"
MESSAGES = [{"role": "string", "content": "string"}]
COLUMNS: dict[str, Any] = {
    "prompt": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "prompt_ids": ["int32"],
    "chosen_ids": ["int32"],
    "rejected_ids": ["int32"],
    "iteration": "int32",
    "kind": "string",
    "margin": "float64",
    "chosen_score": "float64",
    "rejected_score": "float64",
    "chosen_shaped_score": "float64",
    "rejected_shaped_score": "float64",
    "chosen_response_tokens": "int32",
    "rejected_response_tokens": "int32",
    "prompt_id": "string",
    "category": "string",
    "source": "string",
}
"""The columns of every part; an iteration without a category has the column all the same."""


def export_pairs(run: Path, target: Target, *, arm: Arm = "thought") -> Target:
    """Write the pairs of every iteration of an arm that has sealed them, oldest first.

    Raises: ValueError if there are none or the target exists; StageError if a stage is damaged.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    recipe = load_run(run)
    if arm not in recipe.arms:
        raise ValueError(f"arm: {run} has no arm {arm!r}; it has {', '.join(recipe.arms)}")
    refs = [
        StageRef(recipe=recipe, stage="pairs", arm=arm, index=number)
        for number in range(recipe.iterations)
    ]
    refs = [ref for ref in refs if ref.sealed]
    tokenizer = loading.load_tokenizer(recipe.model.source)
    if not refs:
        raise ValueError(
            f"pairs: {run} has no pairs in its {arm} arm yet; `forethought run` with the same "
            "recipe goes on"
        )
    with whole_target(target) as folder:
        (folder / "data").mkdir()
        rendered: Counter[str] = Counter()
        for ref in refs:
            rows = list(_rows(ref, tokenizer))
            part = Dataset.from_list(rows, features=_features(COLUMNS))
            part.to_parquet(folder / "data" / f"iteration_{ref.index:03d}.parquet")
            rendered.update(_rendered(row, tokenizer) for row in rows)
        (folder / "README.md").write_text(_card(refs, rendered), encoding="utf-8")
    return target


def _features(columns: dict[str, Any]) -> Any:
    from datasets import Features, List, Value

    def feature(kind: Any) -> Any:
        if isinstance(kind, list):
            return List(feature(kind[0]))
        if isinstance(kind, dict):
            return {name: feature(inner) for name, inner in kind.items()}
        return Value(kind)

    return Features({name: feature(kind) for name, kind in columns.items()})


def _rows(ref: StageRef, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    pairs = read_records(ref.folder, PreferencePair, "pairs")
    prompts = {record.prompt_id: record for record in ref.prompts("train")}
    wanted = {pair.prompt_id for pair in pairs}
    texts = {
        (record.prompt_id, record.sample_index): record.completion.text
        for record in read_records(ref.beside("rollouts"), Rollout)
        if record.prompt_id in wanted
    }
    if ref.shuffles_thoughts:
        texts = _texts_as_trained(ref, pairs)
    for pair in pairs:
        prompt = prompts[pair.prompt_id]
        yield {
            # As rendered in the run: control tokens that a user wrote are broken.
            "prompt": rendering.as_turns(tokenizer, ref.thought_format.apply(prompt.messages)),
            "chosen": _answer(texts[pair.prompt_id, pair.chosen.sample_index]),
            "rejected": _answer(texts[pair.prompt_id, pair.rejected.sample_index]),
            "prompt_ids": list(pair.prompt_token_ids),
            "chosen_ids": list(pair.chosen.token_ids),
            "rejected_ids": list(pair.rejected.token_ids),
            "iteration": ref.index,
            "kind": pair.kind,
            "margin": pair.margin,
            **_side("chosen", pair.chosen),
            **_side("rejected", pair.rejected),
            **_origin(prompt),
        }


def _texts_as_trained(ref: StageRef, pairs: Sequence[PreferencePair]) -> dict[tuple[str, int], str]:
    """By prompt and sample, where outputs have other thoughts than were sampled.

    Raises: StageError if the policy, whose tokenizer wrote them, was dropped.
    """
    ref.check_policy()
    tokenizer, markers = loading.load_tokenizer(ref.policy.source), ref.thought_format.markers
    return {
        (pair.prompt_id, side.sample_index): rendering.decode(tokenizer, side.token_ids, markers)
        for pair in pairs
        for side in (pair.chosen, pair.rejected)
    }


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _side(name: str, side: PairSide) -> dict[str, Any]:
    return {
        f"{name}_score": side.score,
        f"{name}_shaped_score": side.shaped_score,
        f"{name}_response_tokens": side.response_tokens,
    }


def _origin(prompt: Prompt) -> dict[str, Any]:
    return {"prompt_id": prompt.prompt_id, "category": prompt.category, "source": prompt.source}


def _rendered(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """How both outputs, rendered with the chat template as TRL does, compare with the trained ids:
    `same`, `longer` (the template writes on behind the end token) or `other`."""
    found = "same"
    for side in ("chosen", "rejected"):
        trained = row["prompt_ids"] + row[f"{side}_ids"]
        turns = row["prompt"] + row[side]
        with within_time():
            encoded: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
        rendered = encoded["input_ids"]
        if rendered[: len(trained)] != trained:
            return "other"
        if rendered != trained:
            found = "longer"
    return found


def _card(refs: list[StageRef], rendered: Counter[str]) -> str:
    recipe, arm = refs[0].recipe, refs[0].arm
    front = {
        "task_categories": ["text-generation"],
        "tags": ["forethought", "preference", "dpo", "trl"],
        "configs": [{"config_name": "default", "data_files": FILES}],
    }
    template = environment().get_template("pairs_card.md")
    return template.render(
        front=front_matter(front),
        run=recipe.run.resolve().name,
        recipe=recipe,
        arm=arm,
        format=refs[0].thought_format,
        shuffled=refs[0].shuffles_thoughts,
        seed=run_facts.seed_name(recipe),
        judge=run_facts.judge_name(recipe),
        sources=run_facts.source_names(recipe),
        stages=[(ref.index, read_manifest(ref.folder)) for ref in refs],
        rows=rendered.total(),
        same=rendered["same"],
        longer=rendered["longer"],
        columns=list(COLUMNS),
    )
