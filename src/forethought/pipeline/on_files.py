"""One stage alone, on files: prompts in, outputs out; responses in, scores out.

`forethought sample prompts.jsonl outputs.jsonl recipe.yaml` and `forethought judge outputs.jsonl
scores.jsonl recipe.yaml`. A line of input is kept and gets more fields, so that one command's
output is the next one's input. The output is named last: until it is whole its lines stand in
`OUTPUT.partial`, and the same command goes on from there. With `sampling.workers` and
`judge.workers` many parts are done at a time; the lines are the same, in the same order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from forethought.config import ColumnsConfig, JudgeConfig, JudgePart, SamplePart
from forethought.decoding.request import SamplingParams
from forethought.judging.describe import identity, refuse_missing_models
from forethought.judging.executor import Verdicts, judging_executor
from forethought.judging.llm import checklist_evidence
from forethought.judging.look import mistake_in
from forethought.models import loading
from forethought.models.control_tokens import without_well_known
from forethought.models.loading import load_tokenizer
from forethought.models.marker_tokens import split_by_token
from forethought.progress.reporter import Reporter
from forethought.prompts import PromptRecord, prompt_of, text_records
from forethought.sampling.base import stable_seed
from forethought.sampling.executor import SamplingExecutor, sampling_executor
from forethought.storage.files import naming, sha256_file, write_json
from forethought.storage.reply_cache import Cache
from forethought.storage.sealed_stage import read_json
from forethought.thoughts import DIRECT, ThoughtFormat, load_format
from forethought.types import (
    Completion,
    Prompt,
    ResponseGroup,
    SampledPrompt,
    SampleRequest,
    Unjudged,
    Unsampled,
)
from forethought.workers.executor import in_order
from forethought.workers.threads import use_threads

GROUPS = 64
"""Groups a judge is shown at a time: what is judged again at most after a kill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLine:
    """A line of input, its place and its prompt.

    Example: `InputLine(row={"prompt": "Hi"}, where="prompts.jsonl, line 1", prompt=Prompt(…))`
    """

    row: dict[str, Any]
    where: str
    prompt: Prompt


def sample_file(part: SamplePart, source: Path, target: Path, reporter: Reporter) -> None:
    """Sample outputs for every prompt of a JSONL file.

    Each line gets `outputs`: text, status, thought, response, finish_reason and tokens. That of a
    prompt which cannot be sampled gets none, and the reason as `left_out`.

    Raises: ValueError for a bad line, an output that exists, or other settings than before.
    """
    thought_format = load_format(part.thought_format)
    if part.model is not None:
        loading.resolve(part.model.source)
    lines = read_lines(source, thought_format)
    settings = {"sample": part.identity(), "format": thought_format.model_dump(mode="json")}
    output = OutputFile(target, source, settings)
    size = part.sampling.part_size
    starts = range(output.done, len(lines), size)
    gone = output.left_out()
    with reporter.task("sample", len(lines), "prompts") as task, output:
        task.advance(output.done)
        if starts:
            use_threads(part.launch.threads)

            def requests(start: int) -> list[SampleRequest]:
                these = lines[start : start + size]
                return [_request(part, thought_format, line.prompt) for line in these]

            with (
                Cache(output.beside("replies.sqlite")) as cache,
                _executor(part, thought_format, cache) as executor,
            ):
                for start, results in in_order(starts, executor.each(starts, requests)):
                    these = lines[start : start + size]
                    rows = []
                    for index, (line, result) in enumerate(zip(these, results, strict=True), start):
                        if isinstance(result, Unsampled):
                            gone[index] = result.reason
                            rows.append(line.row | {"outputs": [], "left_out": result.reason})
                            continue
                        rows.append(line.row | {"outputs": result})
                    output.add(rows)
                    task.advance(len(these))
        if len(gone) == len(lines):
            output.forget()
            raise ValueError(f"no prompt can be sampled; {lines[0].where}: {gone[0]}")
        output.finish()
    if gone:
        reporter.say(
            f"{len(gone)} of {len(lines)} prompts cannot be sampled, the first in "
            f"{lines[min(gone)].where}; their "
            f"lines in {target} have no outputs, and the reason in `left_out`"
        )


def _executor(
    part: SamplePart, thought_format: ThoughtFormat, cache: Cache
) -> AbstractContextManager[SamplingExecutor[list[dict[str, Any]]]]:
    return sampling_executor(
        part.sampling,
        part.launch,
        partial(_outputs, _as_split(part, thought_format)),
        name="sample",
        model=part.model,
        params=SamplingParams.of(part.sampling),
        markers=thought_format.markers,
        cache=cache if part.sampling.is_server else None,
        token_ids=False,
    )


def _as_split(part: SamplePart, thought_format: ThoughtFormat) -> ThoughtFormat:
    """By token, where the model is at hand and has the markers as tokens."""
    if part.model is None or not part.sampling.loads_model:
        return thought_format
    return split_by_token(thought_format, load_tokenizer(part.model.source))


def judge_file(
    part: JudgePart, source: Path, target: Path, reporter: Reporter, *, explain: bool
) -> None:
    """Score the responses of every line of a JSONL file.

    A line has a prompt and `responses`, a list of texts, or `outputs` as `sample_file` writes
    them, of which the judge sees the responses only. It gets `scores` (`null` where there is no
    response), `judge`, `evidence`, and `missing`: why there are no scores, or `null`.

    Raises: ValueError for a bad line, an output that exists, or other settings than before.
    """
    refuse_missing_models(part.judge)
    lines = judged_lines(source, part.judge)
    responses = [responses_of(line) for line in lines]
    output = OutputFile(target, source, {"judge": identity(part.judge)})
    with reporter.task("judge", len(lines), "prompts") as task, output:
        task.advance(output.done)
        if output.done < len(lines):
            use_threads(part.launch.threads)
            keeps = part.judge.asks_a_model
            path = part.cache or (output.beside("cache.sqlite") if keeps else None)
            starts = range(output.done, len(lines), GROUPS)

            def groups(start: int) -> list[ResponseGroup]:
                here = slice(start, start + GROUPS)
                return _groups(lines[here], responses[here])

            with Cache(path) as cache, judging_executor(part.judge, cache, part.launch) as executor:
                for start, verdicts in in_order(starts, executor.each(starts, groups)):
                    here = slice(start, start + GROUPS)
                    rows = _judged(verdicts, lines[here], responses[here])
                    output.add(rows)
                    task.advance(len(rows))
                spent = cache.counts()
            if keeps:
                task.note = f"{spent['calls']} calls, {spent['hits']} found in the cache"
        output.finish()
    if explain:
        _explain(part, target, reporter)


def read_lines(source: Path, thought_format: ThoughtFormat) -> list[InputLine]:
    """Prompts of a JSONL or CSV file under `prompt`, `messages` or `conversations`, with
    `category`, `reference`, `source`.

    Raises: ValueError that names the file, the line and the field.
    """
    if not source.is_file():
        raise ValueError(f"{source} does not exist; give a JSONL file with prompts")
    lines = [_line(record, source, thought_format) for record in text_records(source)]
    if not lines:
        raise ValueError(f"{source} holds no records; give a JSONL file with prompts")
    return lines


def judged_lines(source: Path, judge: JudgeConfig) -> list[InputLine]:
    """The lines of a file whose responses a judge is to score.

    Raises: ValueError that names file, line and field, also where the judge could score no response
    to a prompt.
    """
    lines = read_lines(source, DIRECT)
    for line in lines:
        if (mistake := mistake_in(line.prompt, judge)) is not None:
            raise ValueError(f"{line.where}: {mistake}")
    return lines


class OutputFile:
    """A JSONL file that grows under another name and gets its own when it is whole."""

    def __init__(self, target: Path, source: Path, settings: dict[str, Any]) -> None:
        """Find what an earlier attempt left, if it was the same work.

        Raises: ValueError if the file exists, or an attempt with other settings was begun.
        """
        self._target = target
        self._lines = self.beside("partial")
        self._intent = self.beside("partial.json")
        self.done = 0
        if target.exists():
            raise ValueError(f"{target} exists; name another output, or remove it first")
        if not target.parent.is_dir():
            raise ValueError(f"{target.parent} is no folder; make it first")
        intent = {"settings": json.loads(json.dumps(settings)), "input": sha256_file(source)}
        if self._intent.is_file() and self._lines.is_file():
            self.done = _repair(self._lines)
            if self.done and read_json(self._intent) != intent:
                raise ValueError(
                    f"{self._lines} was begun with other settings or another {source.name}; put "
                    "them back, or remove it"
                )
        write_json(self._intent, intent)
        self._file: Any = None

    def __enter__(self) -> OutputFile:
        self._file = self._lines.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._lines.is_file() and not self._lines.stat().st_size:
            self._lines.unlink()
            self._intent.unlink()

    def beside(self, suffix: str) -> Path:
        """A working file next to the output."""
        return self._target.with_name(f"{self._target.name}.{suffix}")

    def left_out(self) -> dict[int, str]:
        """Which lines an earlier attempt wrote without outputs, counted from 0, and why."""
        if not self.done:
            return {}
        # Bytes: texts may hold line breaks of Unicode's, which are none of JSON's.
        rows = map(json.loads, self._lines.read_bytes().split(b"\n")[: self.done])
        return {index: row["left_out"] for index, row in enumerate(rows) if "left_out" in row}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append lines so that they survive a kill."""
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        with naming(self._lines):
            self._file.write(text.encode("utf-8", "surrogatepass"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def forget(self) -> None:
        """Take back what was added."""
        self._file.truncate(0)

    def finish(self) -> None:
        """Give the file its name and remove the working files."""
        os.replace(self._lines, self._target)
        for leftover in self._target.parent.glob(f"{self._target.name}.*"):
            if leftover.name.removeprefix(f"{self._target.name}.").startswith(WORKING):
                leftover.unlink()


WORKING = ("partial.json", "replies.sqlite", "cache.sqlite")
"""Beginnings of the names of working files; SQLite adds two more to its own."""


def _repair(path: Path) -> int:
    """Cut off a line that a kill left half written; how many whole ones there are."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.count(b"\n")


def _line(record: PromptRecord, source: Path, thought_format: ThoughtFormat) -> InputLine:
    row = dict(record.row)
    columns = ColumnsConfig(category="category", reference="reference")
    name = row.get("source", source.stem)
    if not isinstance(name, str):
        raise record.wrong("source", "the source is not text", name, "give a string")
    prompt = prompt_of(record, columns, name, thought_format.strip_thought)
    return InputLine(row=row, where=record.where, prompt=prompt)


def responses_of(line: InputLine) -> list[str | None]:
    """Its `responses`, or those of its `outputs`; `None` where an output has none.

    Raises: ValueError if it has neither.
    """
    row = line.row
    if "responses" in row:
        found, field = row["responses"], "responses"
    elif isinstance(row.get("outputs"), list):
        found, field = [], "outputs"
        for output in row["outputs"]:
            if not isinstance(output, dict) or "response" not in output:
                raise ValueError(
                    f"{line.where}: an entry of outputs has no `response`: {output!r:.80}"
                )
            found.append(output["response"])
    else:
        raise ValueError(
            f"{line.where} has fields {sorted(row)} and neither `responses` (a list of texts) nor "
            "`outputs` (as `forethought sample` writes them)"
        )
    if not isinstance(found, list) or not all(
        text is None or isinstance(text, str) for text in found
    ):
        raise ValueError(f"{line.where}: {field} must be a list of texts, got {found!r:.80}")
    return found


def _request(part: SamplePart, thought_format: ThoughtFormat, prompt: Prompt) -> SampleRequest:
    messages = prompt.messages
    if part.sampling.is_server:
        # The server's tokenizer is not at hand; other engines ask their own.
        messages = tuple(
            replace(message, content=without_well_known(message.content)) for message in messages
        )
    return SampleRequest(
        prompt_id=prompt.prompt_id,
        messages=thought_format.apply(messages),
        seeds=tuple(
            stable_seed(part.seed, prompt.prompt_id, index)
            for index in range(part.sampling.samples)
        ),
    )


def _outputs(thought_format: ThoughtFormat, sampled: SampledPrompt) -> list[dict[str, Any]]:
    return [_output(thought_format, completion) for completion in sampled.completions]


def _output(thought_format: ThoughtFormat, completion: Completion) -> dict[str, Any]:
    parsed = thought_format.parse(completion.text, completion.finish_reason)
    return {
        "text": completion.text,
        "status": str(parsed.status),
        "thought": parsed.thought,
        "response": parsed.response,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids) or None,
    }


def _groups(
    lines: Sequence[InputLine], responses: Sequence[Sequence[str | None]]
) -> list[ResponseGroup]:
    """What the judge is shown; a line without any response is not."""
    shown = [tuple(text for text in texts if text is not None) for texts in responses]
    return [
        ResponseGroup(prompt=line.prompt, responses=texts)
        for line, texts in zip(lines, shown, strict=True)
        if texts
    ]


def _judged(
    verdicts: Verdicts, lines: Sequence[InputLine], responses: Sequence[Sequence[str | None]]
) -> list[dict[str, Any]]:
    """The lines with what the judge says of each."""
    answers = iter(verdicts.answers)
    rows = []
    for line, texts in zip(lines, responses, strict=True):
        scores, evidence, missing = None, None, "no output has a response"
        if any(text is not None for text in texts):
            answer = next(answers)
            if isinstance(answer, Unjudged):
                missing = answer.reason
            else:
                given = iter(answer.scores)
                scores = [None if text is None else next(given) for text in texts]
                evidence, missing = answer.evidence, None
        said = {"judge": verdicts.judge, "scores": scores, "evidence": evidence}
        rows.append(line.row | said | {"missing": missing})
    return rows


def _explain(part: JudgePart, target: Path, reporter: Reporter) -> None:
    for record in text_records(target):
        row = record.row
        reporter.say(f"{record.where}: {row['missing'] or row['scores']}")
        if row["evidence"] and part.judge.type == "armorm":
            from forethought.judging.armorm.objectives import explanation

            reporter.console.print(explanation(row["evidence"]))
        elif row["evidence"] and part.judge.type == "checklist":
            reporter.console.print(checklist_evidence.explanation(row["evidence"]))
        elif row["evidence"]:
            reporter.say(row["evidence"])
