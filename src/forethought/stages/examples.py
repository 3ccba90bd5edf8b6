"""Stage `examples` of the warm start: what the policy will be trained to write.

Of each prompt's outputs those that parse, with each marker once, are kept, the best by judge first,
and set behind the bare prompt: the demonstrations that they were sampled with are left away. An
output sampled in the arm's own format has the sampler's own tokens; one that was sampled in another
is written again. With `warm_start.samples: 0` the records of the user's file are written, and
nothing was sampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from forethought.models import loading, rendering
from forethought.progress.reporter import Reporter
from forethought.prompts import demonstrations_file
from forethought.runs.layout import StageRef
from forethought.stages.judged.no_pairs import why_no_examples
from forethought.stages.policies.demonstrated import arm_demonstrations, shown_demonstrations
from forethought.stages.policies.sampled_policy import OutputSplitter
from forethought.storage.files import sha256_file
from forethought.storage.open_stage import Stage
from forethought.storage.sealed_stage import (
    ArmStoppedError,
    Count,
    StageError,
    read_part,
    read_records,
    sealed_parts,
)
from forethought.thoughts import ThoughtFormat
from forethought.types import Completion, Message, Prompt, Rollout, ScoredGroup, TrainingExample


def configure(ref: StageRef) -> dict[str, Any]:
    """What decides this stage's content besides its inputs."""
    recipe = ref.recipe
    assert recipe.warm_start is not None
    config: dict[str, Any] = {
        "keep": recipe.warm_start.keep,
        "keep_by": recipe.warm_start.keep_by,
        "template": ref.policy.template,
        "thought_format": ref.thought_format.model_dump(mode="json"),
        "model": loading.identity(recipe.model.source),
    }
    if not recipe.warm_start.samples:
        config = {name: config[name] for name in ("template", "thought_format", "model")}
        config["records"] = sha256_file(demonstrations_file(recipe.warm_start.demonstrations))
    return config


def work(stage: Stage, ref: StageRef, reporter: Reporter) -> dict[str, Count]:
    """Write the examples, in the order of prompts; counts what was not kept, and why.

    Raises: ArmStoppedError if there is none.
    """
    warm = ref.recipe.warm_start
    assert warm is not None
    writer = _Writer(ref)
    with reporter.task(ref.label, 1, "sets") as task:
        found = Counter[str]()
        if warm.samples:
            examples = list(_best(ref, writer, found))
        else:
            examples = list(_records(ref, writer, found))
        if not examples:
            raise ArmStoppedError(why_no_examples(ref))
        stage.write_records("examples", examples, TrainingExample)
        task.advance(note=f"{len(examples)} outputs to train on")
    tokens = sum(len(example.token_ids) for example in examples)
    return {
        "examples": len(examples),
        "prompts": len({example.prompt_id for example in examples}),
        **found,
        "mean_thought_tokens": sum(e.response_start for e in examples) / len(examples),
        "mean_tokens": tokens / len(examples),
    }


def _best(ref: StageRef, writer: _Writer, found: Counter[str]) -> Iterator[TrainingExample]:
    """Up to `keep` outputs of each prompt."""
    warm, sampled = ref.recipe.warm_start, ref.beside("rollouts")
    assert warm is not None
    scores = _scores(ref) if warm.judges else {}
    prompts = {prompt.prompt_id: prompt for prompt in ref.prompts("train")}
    shown = shown_demonstrations(ref).thought_format
    own = shown == ref.thought_format
    for part in sealed_parts(sampled):
        by_prompt: dict[str, list[Rollout]] = {}
        for rollout in read_part(sampled, part, Rollout):
            by_prompt.setdefault(rollout.prompt_id, []).append(rollout)
        for prompt_id, rollouts in by_prompt.items():
            found["outputs"] += len(rollouts)
            usable = [each for each in rollouts if _is_usable(each, shown)]
            found["usable"] += len(usable)
            kept = 0
            for rollout in _ordered(usable, scores.get(prompt_id, {}), shown):
                example = writer.example(
                    prompts[prompt_id],
                    rollout,
                    score=scores.get(prompt_id, {}).get(rollout.sample_index),
                    own=own,
                )
                if example is not None:
                    yield example
                    kept += 1
                if kept == warm.keep:
                    break


def _is_usable(rollout: Rollout, shown: ThoughtFormat) -> bool:
    """An output that shows the format: with a response, with a thought where one is asked, and with
    each marker once. A small model that has seen a marker again goes on writing it."""
    parsed = rollout.parsed
    if parsed.response is None or (shown.must_think and not parsed.thought):
        return False
    texts = f"{parsed.thought or ''}\n{parsed.response}".lower()
    return not any(marker.lower() in texts for marker in shown.markers)


def _ordered(
    rollouts: Sequence[Rollout], scores: Mapping[int, float], shown: ThoughtFormat
) -> list[Rollout]:
    """The best first; of a hybrid format the best that thinks, the best that does not, and so
    on."""
    if not shown.hybrid:
        return _ranked(rollouts, scores)
    thinking = _ranked([each for each in rollouts if each.parsed.thought is not None], scores)
    direct = _ranked([each for each in rollouts if each.parsed.thought is None], scores)
    turns = zip_longest(thinking, direct)
    return [each for turn in turns for each in turn if each is not None]


def _ranked(rollouts: Sequence[Rollout], scores: Mapping[int, float]) -> list[Rollout]:
    """The best first. What the judge could not score comes last: it still shows the format."""

    def rank(rollout: Rollout) -> tuple[bool, float, int]:
        score = scores.get(rollout.sample_index)
        return score is None, -(score or 0.0), rollout.sample_index

    return sorted(rollouts, key=rank)


def _scores(ref: StageRef) -> dict[str, dict[int, float]]:
    groups = read_records(ref.beside("judgements"), ScoredGroup, "scored")
    return {
        group.prompt_id: dict(zip(group.sample_indices, group.scores, strict=True))
        for group in groups
    }


def _records(ref: StageRef, writer: _Writer, found: Counter[str]) -> Iterator[TrainingExample]:
    """The records of the user's file, but for prompts that are held out."""
    held_out = {prompt.prompt_id for kind in ("validation", "test") for prompt in ref.prompts(kind)}
    seen = Counter[str]()
    for each in arm_demonstrations(ref):
        found["records"] += 1
        prompt_id = each.prompt.prompt_id
        if prompt_id in held_out:
            found["held_out"] += 1
            continue
        example = writer.written(
            each.prompt, seen[prompt_id], each.thought, each.response, score=None
        )
        if example is None:
            raise StageError(
                f"{ref.label}: {each.where}: as tokens of {ref.recipe.model.path} it does not "
                "parse into its thought and response; change its texts or leave it out"
            )
        yield example
        seen[prompt_id] += 1


class _Writer:
    """Makes examples with the arm's tokenizer, chat template and format."""

    def __init__(self, ref: StageRef) -> None:
        source = ref.policy.source
        self._format, self._template = ref.thought_format, ref.policy.template
        self._tokenizer = loading.load_tokenizer(source)
        ends = loading.end_token_ids(self._tokenizer, loading.generation_config(source))
        self._end = rendering.turn_end(self._tokenizer, ends, self._template)
        self._splitter = OutputSplitter(self._format, ref.policy)

    def example(
        self, prompt: Prompt, rollout: Rollout, *, score: float | None, own: bool
    ) -> TrainingExample | None:
        """A sampled output behind the bare prompt; `own` says that it has the arm's format.

        `None` where it cannot be written in that.
        """
        parsed = rollout.parsed
        assert parsed.response is not None
        if not own:
            index = rollout.sample_index
            return self.written(prompt, index, parsed.thought, parsed.response, score=score)
        return TrainingExample(
            prompt_id=prompt.prompt_id,
            sample_index=rollout.sample_index,
            prompt_token_ids=self._asked(prompt.messages),
            token_ids=rollout.completion.token_ids,
            response_start=rollout.response_start,
            score=score,
        )

    def written(
        self, prompt: Prompt, index: int, thought: str | None, response: str, *, score: float | None
    ) -> TrainingExample | None:
        """An output made of its two texts; `None` where these tokens would not parse into them."""
        prompt_ids = self._asked(prompt.messages)
        ids = rendering.written_output(
            self._tokenizer,
            self._format,
            thought,
            response,
            prompt_ids=prompt_ids,
            end=self._end,
        )
        text = rendering.decode(self._tokenizer, ids[:-1], markers=self._format.markers)
        completion = Completion(text=text, token_ids=ids, finish_reason="stop")
        parsed, start, _ = self._splitter.split(completion)
        if parsed.response != response or (self._format.thinks and parsed.thought != thought):
            return None
        return TrainingExample(
            prompt_id=prompt.prompt_id,
            sample_index=index,
            prompt_token_ids=prompt_ids,
            token_ids=ids,
            response_start=start,
            score=score,
        )

    def _asked(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return rendering.render(self._tokenizer, self._format.apply(messages), self._template)
