"""Why an arm has nothing to learn from: what became of its outputs, and the settings behind it.

An arm without a single pair, or without an output for its warm start, cannot go on, and sampling it
again with the same settings gives the same outputs. So the counts are said, from the model's first
token to the pair, and for what was most of it the field of the recipe that changes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from forethought.runs.layout import WARM_START, StageRef
from forethought.storage.sealed_stage import read_manifest, read_part, sealed_parts
from forethought.types import ParseStatus, Rollout

MANY = 0.25
"""A share of the outputs, or of the prompts, from which on a cause is worth a remedy."""

NO_PAIR = {
    "tie": "whose best and worst response score alike",
    "one_judged": "with one scored response only",
    "none_judged": "without any response",
    "unjudged": "that the judge could not score",
    "unparsable_quota": "that could only set a response against an output without one, of which "
    "pairs.max_unparsable allows none",
}
"""What each outcome of pairing without a pair says of a prompt."""


def why_nothing_parses(ref: StageRef) -> str:
    """What to say where no output of the iteration has a response; `ref` is any stage of it."""
    outputs = _outputs(ref)
    return (
        f"{ref.label}: none of {outputs.total()} outputs has a response: "
        f"{', '.join(_words_on_outputs(ref, outputs))}. {_way_out(ref, outputs, Counter())}"
    )


def why_no_pairs(ref: StageRef) -> str:
    """What to say where no prompt of the iteration gave a pair; `ref` is any stage of it."""
    outputs, prompts = _outputs(ref), _outcomes(ref)
    without = ", ".join(_words_on_outputs(ref, outputs))
    return (
        f"{ref.label}: none of {prompts.total()} prompts gave a pair. Of {outputs.total()} outputs "
        f"{outputs['complete']} have a response{f'; {without}' if without else ''}. Prompts: "
        f"{', '.join(_words_on_prompts(prompts))}. {_way_out(ref, outputs, prompts)}"
    )


def why_no_examples(ref: StageRef) -> str:
    """What to say where the warm start keeps no output; `ref` is any stage of it."""
    warm = ref.recipe.warm_start
    assert warm is not None
    if not warm.samples:
        return (
            f"{ref.label}: every record of {warm.demonstrations} has a prompt that is held out for "
            "validation or test, so none is trained on; give others in warm_start.demonstrations"
        )
    outputs = _outputs(ref)
    if not outputs["complete"]:
        return why_nothing_parses(ref)
    return (
        f"{ref.label}: none of {outputs.total()} outputs can be trained on: {outputs['complete']} "
        "have a response, and none of these has a thought and each marker once. "
        f"{_way_out(ref, Counter({'no marker': 1}), Counter())}"
    )


def _outputs(ref: StageRef) -> Counter[str]:
    """How many outputs of the iteration ended how."""
    folder = ref.beside("rollouts")
    found: Counter[str] = Counter()
    for part in sealed_parts(folder):
        found.update(_end(rollout) for rollout in read_part(folder, part, Rollout))
    return found


def _end(rollout: Rollout) -> str:
    status = rollout.parsed.status
    if status is ParseStatus.NO_RESPONSE:
        cut_off = rollout.completion.finish_reason == "length"
        return "cut off before" if cut_off else "no marker"
    return str(status)


def _outcomes(ref: StageRef) -> Counter[str]:
    """How many prompts of the iteration had each outcome of pairing."""
    counts = read_manifest(ref.beside("pairs")).counts
    return Counter({kind: number for kind in NO_PAIR if isinstance(number := counts[kind], int)})


def _words_on_outputs(ref: StageRef, outputs: Counter[str]) -> Iterator[str]:
    limit = f"sampling.max_new_tokens ({ref.recipe.sampling.max_new_tokens})"
    marker = f" of thought_format {ref.thought_format.name!r}"
    if ref.index == WARM_START:
        # They may have been sampled in another.
        marker = ""
    words = {
        "no marker": f"ended without the response marker{marker}",
        "cut off before": f"were cut off before it by {limit}",
        "truncated": f"were cut off inside the response by {limit}",
        "empty_response": "have an empty response",
    }
    return (f"{outputs[end]} {said}" for end, said in words.items() if outputs[end])


def _words_on_prompts(prompts: Counter[str]) -> Iterator[str]:
    return (f"{prompts[kind]} {said}" for kind, said in NO_PAIR.items() if prompts[kind])


def _way_out(ref: StageRef, outputs: Counter[str], prompts: Counter[str]) -> str:
    """The fields that change it, the most frequent cause first, and where outputs can be read."""
    of_outputs, of_prompts = max(outputs.total(), 1), max(prompts.total(), 1)
    cut = outputs["cut off before"] + outputs["truncated"]
    other_format = (
        "another thought_format (tags, or a YAML file with words of your own), or a model that "
        "follows instructions"
    )
    if ref.recipe.warm_start is None:
        other_format = f"a warm start (warm_start: {{}}), {other_format}"
    elif ref.index == WARM_START:
        other_format = (
            "other demonstrations (warm_start.demonstrations), more warm_start.samples or "
            f"warm_start.prompts, {other_format}"
        )
    causes = [
        (outputs["no marker"] / of_outputs, other_format),
        (cut / of_outputs, "a larger sampling.max_new_tokens"),
        (
            prompts["tie"] / of_prompts,
            "a judge with finer scores, more sampling.samples or a higher sampling.temperature",
        ),
        (
            prompts["unjudged"] / of_prompts,
            f"a judge that scores: its reasons are in {ref.beside('judgements')}",
        ),
        (
            (prompts["one_judged"] + prompts["unparsable_quota"]) / of_prompts,
            "more sampling.samples, or pairs.max_unparsable above 0",
        ),
    ]
    remedies = [remedy for share, remedy in sorted(causes, reverse=True) if share >= MANY]
    helps = f"What helps here: {'; or '.join(remedies)}. " if remedies else ""
    return (
        f"{helps}Its outputs can be read in the samples of the report (`forethought report "
        f"{ref.recipe.run}`). With other settings start another run (run=…); the same settings "
        "give the same outputs (a server's may differ)"
    )
