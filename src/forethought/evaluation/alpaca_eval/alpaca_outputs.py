"""AlpacaEval's evaluation set, the outputs of a model in the package's format, and annotations.

The files are lists of records, as the `alpaca_eval` package reads and writes them: an instruction
with `instruction` and `dataset`, an output with `output` and `generator` besides, an annotation
with `output_1` and `generator_1` of the baseline, `output_2` and `generator_2` of the model, and
`preference`. Annotations stand in the order of the evaluation set, one for each instruction, so
that their places are the indices of the difficulty table.

An output is a response: whoever writes them has cut the thought off. Where a model gave no response
its output is empty and loses; the judge is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.evaluation.alpaca_eval.alpaca_files import ModelAnnotations, load_json
from forethought.evaluation.alpaca_eval.annotator import Annotation
from forethought.evaluation.alpaca_eval.weighted_preference import OutputPair

LOST = Annotation(preference=1.0, switched=False, logprobs=None, reason=None)
UNASKED = Annotation(
    preference=None, switched=False, logprobs=None, reason="the model cannot be asked this"
)
"""Of an output that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One of the evaluation set.

    Example: `Instruction(text="Name a prime.", dataset="helpful_base")`
    """

    text: str
    dataset: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a model answered, one output per instruction, in the order of the evaluation set.

    Example: `Outputs(generator="gpt4_1106_preview", texts=("7 is one.", None))`
    """

    generator: str
    texts: tuple[str | None, ...]
    """`None` where there is no response."""


def read_instructions(path: Path) -> list[Instruction]:
    """The evaluation set; each instruction stands in it once.

    Raises: ValueError that names file, record and field.
    """
    records = _records(path)
    found = [
        Instruction(
            text=_text(path, place, record, "instruction"),
            dataset=record["dataset"] if isinstance(record.get("dataset"), str) else None,
        )
        for place, record in enumerate(records)
    ]
    seen: dict[str, int] = {}
    for place, instruction in enumerate(found):
        if seen.setdefault(instruction.text, place) != place:
            raise ValueError(
                f"{path}: records {seen[instruction.text]} and {place} have the same instruction; "
                "leave one out"
            )
    return found


def read_outputs(path: Path, instructions: Sequence[Instruction]) -> Outputs:
    """A model's outputs for these instructions; outputs for others are left aside.

    Raises: ValueError that names file, record and field, or what is missing.
    """
    outputs: dict[str, str] = {}
    names: dict[str, None] = {}
    for place, record in enumerate(_records(path)):
        text = _text(path, place, record, "output")
        if outputs.setdefault(_text(path, place, record, "instruction"), text) != text:
            raise ValueError(
                f"{path}: record {place}: its instruction has another output above; give one each"
            )
        names[_text(path, place, record, "generator")] = None
    if len(names) > 1:
        raise ValueError(
            f"{path}: generator is {', '.join(map(repr, list(names)[:5]))}; give one model's "
            "outputs alone"
        )
    missing = [instruction.text for instruction in instructions if instruction.text not in outputs]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(instructions)} instructions have no output, the first "
            f"{missing[0]!r:.80}; give outputs for the whole evaluation set"
        )
    return Outputs(
        generator=next(iter(names)),
        texts=tuple(outputs[instruction.text] for instruction in instructions),
    )


def comparisons(
    instructions: Sequence[Instruction], baseline: Outputs, model: Outputs
) -> list[OutputPair | None]:
    """What the judge is asked, `None` where the model has no output."""
    return [
        None
        if second is None
        else OutputPair(instruction=instruction.text, output_1=first or "", output_2=second)
        for instruction, first, second in zip(
            instructions, baseline.texts, model.texts, strict=True
        )
    ]


def output_records(instructions: Sequence[Instruction], outputs: Outputs) -> list[dict[str, Any]]:
    """The records of `model_outputs.json`; an output without a response is the empty text."""
    return [
        {
            "instruction": instruction.text,
            "dataset": instruction.dataset,
            "output": text or "",
            "generator": outputs.generator,
        }
        for instruction, text in zip(instructions, outputs.texts, strict=True)
    ]


def annotation_records(
    instructions: Sequence[Instruction],
    baseline: Outputs,
    model: Outputs,
    annotations: Sequence[Annotation],
    *,
    annotator: str,
) -> list[dict[str, Any]]:
    """The records of `annotations.json`, with the order in which outputs were shown and why some
    failed."""
    return [
        {
            "instruction": instruction.text,
            "output_1": first or "",
            "generator_1": baseline.generator,
            "dataset": instruction.dataset,
            "output_2": second or "",
            "generator_2": model.generator,
            "annotator": annotator,
            "preference": annotation.preference,
            "is_switched_outputs": annotation.switched,
            "raw_completion": _completion(annotation),
            "reason": annotation.reason,
        }
        for instruction, first, second, annotation in zip(
            instructions, baseline.texts, model.texts, annotations, strict=True
        )
    ]


def as_annotations(
    instructions: Sequence[Instruction],
    baseline: Outputs,
    model: Outputs,
    annotations: Sequence[Annotation],
) -> ModelAnnotations:
    """The annotations with the lengths of both outputs in characters, ready to be scored."""
    return ModelAnnotations(
        model=model.generator,
        baseline=baseline.generator,
        preferences=tuple(annotation.preference for annotation in annotations),
        baseline_lengths=tuple(len(text or "") for text in baseline.texts),
        lengths=tuple(len(text or "") for text in model.texts),
        places=tuple(range(len(instructions))),
        datasets=tuple(instruction.dataset for instruction in instructions),
    )


def _completion(annotation: Annotation) -> dict[str, Any] | None:
    """The judge's token as the package keeps it, so that it can be read again from the file."""
    if annotation.logprobs is None:
        return None
    tokens = [{"token": token, "logprob": value} for token, value in annotation.logprobs.items()]
    return {"logprobs": {"content": [{"top_logprobs": tokens}]}}


def _records(path: Path) -> list[dict[str, Any]]:
    content = load_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} holds no list of records; give a file in AlpacaEval's format")
    for place, record in enumerate(content):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: record {place} is no object but {record!r:.60}")
    return content


def _text(path: Path, place: int, record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise ValueError(f"{path}: record {place}: {field}: {value!r:.60} is no text")
    return value
