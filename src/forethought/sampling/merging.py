"""Cohorts made into one, so that rows which came at different times share their products.

A step costs a fixed effort per cohort and layer. Where prompts come one at a time, as at a server,
every one would be a cohort of its own. Merged, what a row has drawn so far becomes part of its
prompt, and all rows go on from an empty suffix.

Shapes: see cohort.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from forethought.sampling.cohort import Cohort, Layer


def merged(cohorts: Sequence[Cohort]) -> Cohort:
    """One cohort of all their rows, in order; the old ones are emptied layer by layer.

    A prompt with several rows is copied for each of them.
    """
    lengths = [
        cohort.lengths[prompt] + cohort.drawn
        for cohort in cohorts
        for prompt in cohort.prompt_of_row
    ]
    whole = Cohort.plan(lengths, [1] * len(lengths), cohorts[0].device)
    for index in list(cohorts[0].layers):
        layers = [cohort.layers.pop(index) for cohort in cohorts]
        keys, values = layers[0].prefix_keys, layers[0].prefix_values
        rows, heads = len(lengths), keys.shape[1]
        into = Layer(
            keys.new_zeros(rows, heads, whole.width, keys.shape[-1]),
            values.new_zeros(rows, heads, whole.width, values.shape[-1]),
            keys.new_zeros(rows, heads, whole.columns, keys.shape[-1]),
            values.new_zeros(rows, heads, whole.columns, values.shape[-1]),
        )
        start = 0
        for cohort, layer in zip(cohorts, layers, strict=True):
            places = slice(start, start + len(cohort))
            _bake(into.prefix_keys[places], cohort, layer.prefix_keys, layer.suffix_keys)
            _bake(into.prefix_values[places], cohort, layer.prefix_values, layer.suffix_values)
            start += len(cohort)
        whole.layers[index] = into
    return whole


def _bake(into_NHTD: Tensor, cohort: Cohort, prefix_PHTD: Tensor, suffix_NHSD: Tensor) -> None:
    """Prompt and suffix of every row, right-aligned; leading columns that no row needs are cut."""
    width = into_NHTD.shape[2] - cohort.drawn
    into_NHTD[:, :, width:] = suffix_NHSD[:, :, : cohort.drawn]
    taken = min(cohort.width, width)
    prompts = prefix_PHTD[cohort.prompt_of_row, :, cohort.width - taken :]
    into_NHTD[:, :, width - taken : width] = prompts
