"""A judge that holds each response against a checklist: the weighted share of items that it meets.

A checklist belongs to a prompt: from a file, or written once by the judge model, which is shown the
prompt alone and the same seed every time, so that asking the judge again asks about the same items.
Its reply is kept like every other (reply_cache.py): a run that is killed goes on with the items it
had. Each item is then asked about each response alone, a call for each; an item with a verifier is
answered by that. The paper has no such judge; checklists as rewards are those of RLCF (Viswanathan
et al. 2025, "Checklists Are Better Than Reward Models For Aligning Language Models").

    score = sum of weight · met  /  sum of weight,  over the items that count

`met` is 1 for yes, 0 for no and for what cannot be told: who shows nothing has met nothing. A
verifier may give a share. A response on which items of less than `min_read` of the weight have a
verdict has no score. An item without a verdict on one of the others counts for none of them, so
that all responses of a prompt are scored by the same items; where that leaves less than `min_read`
of the weight the prompt stays owed.

Evidence is what checklist_evidence.py writes: every item, its weight, all verdicts on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, fsum
from pathlib import Path

from forethought.config import ChecklistJudge
from forethought.judging.llm.checklist_evidence import ItemVerdicts, Met, written
from forethought.judging.llm.checklist_items import (
    Item,
    Items,
    item_file,
    items_prompt,
    written_items,
)
from forethought.judging.llm.prompt_file import load_prompt
from forethought.judging.llm.verdicts import (
    MISSING_REFERENCE,
    AsksModel,
    NoVerdict,
    Verdict,
    ask,
    only,
    open_model,
)
from forethought.sampling.base import Sampler
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, Prompt, ResponseGroup, SampleRequest, Unjudged

WRITER_SEED = 0
"""Of the reply that holds the items, whatever the judge's own seed is."""

Found = Verdict[Met] | NoVerdict


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One group, its items and what was found of them."""

    group: ResponseGroup
    items: Items
    found: dict[tuple[str, int], Found] = field(default_factory=dict)
    """By response and place of the item; equal responses are asked about once."""

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.group.responses))

    def weight(self, places: Sequence[int]) -> float:
        return fsum(self.items[place].weight for place in places)

    def places(self) -> range:
        return range(len(self.items))

    def read(self, text: str) -> list[int]:
        """The items with a verdict on a response."""
        places = self.places()
        return [place for place in places if isinstance(self.found[text, place], Verdict)]

    def score(self, text: str, places: Sequence[int]) -> float:
        """The share of these items that a response meets; all have a verdict on it."""
        met = 0.0
        for place in places:
            verdict = self.found[text, place]
            assert isinstance(verdict, Verdict), place
            met += self.items[place].weight * (verdict.value or 0.0)
        return met / self.weight(places)


class Checklist(AsksModel):
    """Holds each response against the items of its prompt.

    Example: `Checklist(ChecklistJudge(engine=OpenAIEngine(base_url="http://localhost:8000/v1")))`
    """

    floor: float | None = 0.0

    def __init__(
        self, config: ChecklistJudge, cache: Cache | None = None, *, sampler: Sampler | None = None
    ) -> None:
        """With a `sampler`, that one is asked instead of the config's engine.

        Raises: ValueError if a prompt file, the file of items or the model cannot be used.
        """
        self._config = config
        self._prompt = load_prompt(config.prompt, "checklist")
        self._file = item_file(config)
        self._writer = items_prompt(config) if self._file is None else None
        self._verifiers = {} if self._file is None else self._file.verifiers()
        self._written: dict[str, Items] = {}
        self.name = f"checklist:{Path(config.prompt).stem}:{config.model_name}"
        super().__init__(open_model(config, cache) if sampler is None else sampler)

    def judge(self, groups: Sequence[ResponseGroup]) -> Iterator[Judgement | Unjudged]:
        """The items that are owed are written in one batch, then all are asked about in another.

        Raises: ValueError where the engine itself fails.
        """
        checklists = self._checklists([group.prompt for group in groups])
        asked = [
            checklist if isinstance(checklist, NoVerdict) else _Asked(group=group, items=checklist)
            for group, checklist in zip(groups, checklists, strict=True)
        ]
        known = [each for each in asked if isinstance(each, _Asked)]
        self._ask_the_model(known)
        self._ask_verifiers(known)
        for group, each in zip(groups, asked, strict=True):
            if isinstance(each, NoVerdict):
                yield self._owed(group.prompt, each.reason)
            else:
                yield self._answer(each)

    def _checklists(self, prompts: Sequence[Prompt]) -> list[Items | NoVerdict]:
        """The items of each prompt, or why there are none."""
        lacking = NoVerdict(reason=MISSING_REFERENCE)
        shown = set(self._prompt.fields)
        if self._writer is not None:
            shown |= set(self._writer.fields)
        fine = [p for p in prompts if p.reference is not None or "reference" not in shown]
        written = self._write(fine)
        found: list[Items | NoVerdict] = []
        for prompt in prompts:
            if prompt.reference is None and "reference" in shown:
                found.append(lacking)
            elif self._file is None:
                found.append(written[prompt.prompt_id])
            elif (mistake := self._file.mistake_in(prompt)) is not None:
                found.append(NoVerdict(reason=mistake))
            else:
                found.append(self._file.by_prompt[prompt.prompt_id])
        return found

    def _write(self, prompts: Sequence[Prompt]) -> dict[str, Items | NoVerdict]:
        """What the model writes for each prompt, once."""
        if self._writer is None:
            return {}
        writer, most = self._writer, self._config.max_items
        owed = {p.prompt_id: p for p in prompts if p.prompt_id not in self._written}
        requests = [
            SampleRequest(
                prompt_id=prompt.prompt_id,
                messages=writer.messages(prompt, (str(most),)),
                seeds=(WRITER_SEED,),
            )
            for prompt in owed.values()
        ]
        replies = ask(
            self._sampler, requests, lambda said: written_items(said, writer, most), writer.finish
        )
        found: dict[str, Items | NoVerdict] = {}
        for key, [reply] in zip(owed, replies, strict=True):
            if isinstance(reply, Verdict):
                self._written[key] = reply.value
            else:
                found[key] = NoVerdict(reason=f"no checklist was written: {reply.reason}")
        # Of these prompts alone: a run may have a million.
        return found | {
            key: self._written[key] for p in prompts if (key := p.prompt_id) in self._written
        }

    def _ask_the_model(self, asked: Sequence[_Asked]) -> None:
        calls = [
            (each, text, place)
            for each in asked
            for text in each.texts
            for place in each.places()
            if each.items[place].verifier is None
        ]
        requests = [
            SampleRequest(
                prompt_id=each.group.prompt.prompt_id,
                messages=self._prompt.messages(each.group.prompt, (text, each.items[place].text)),
                seeds=self._config.seeds,
            )
            for each, text, place in calls
        ]
        replies = ask(self._sampler, requests, self._read, self._prompt.finish)
        for (each, text, place), [reply] in zip(calls, replies, strict=True):
            if isinstance(reply, Verdict):
                met = self._prompt.verdicts[reply.value]
                reply = Verdict(value=None if met is None else float(met), said=reply.said)
            each.found[text, place] = reply

    def _read(self, said: str) -> str | NoVerdict:
        return only(self._prompt.verdicts_in(said))

    def _ask_verifiers(self, asked: Sequence[_Asked]) -> None:
        for each in asked:
            for place, item in enumerate(each.items):
                if item.verifier is not None:
                    for text in each.texts:
                        each.found[text, place] = self._verified(each.group.prompt, item, text)

    def _verified(self, prompt: Prompt, item: Item, text: str) -> Found:
        assert item.verifier is not None
        group = ResponseGroup(prompt=item.asked_of(prompt), responses=(text,))
        [answer] = self._verifiers[item.verifier].judge([group])
        if isinstance(answer, Unjudged):
            return NoVerdict(reason=f"verifier {item.verifier}: {answer.reason}")
        [grade] = answer.scores
        if not isinstance(grade, int | float) or not 0 <= grade <= 1:
            reason = f"verifier {item.verifier}: {grade!r:.40} is no share from 0 to 1"
            return NoVerdict(reason=reason)
        return Verdict(value=float(grade), said="")

    def _answer(self, asked: _Asked) -> Judgement | Unjudged:
        """The scores of a group, or why it stays owed."""
        prompt, responses = asked.group.prompt, asked.group.responses
        enough = self._config.min_read * asked.weight(asked.places())
        scored = [text for text in asked.texts if asked.weight(asked.read(text)) >= enough]
        counted = [
            place
            for place in asked.places()
            if all(isinstance(asked.found[text, place], Verdict) for text in scored)
        ]
        failures = [
            f"response {responses.index(text)}, {asked.items[place].text!r:.60}: {found.reason}"
            for (text, place), found in asked.found.items()
            if isinstance(found, NoVerdict)
        ]
        least = ceil(self._config.min_read * len(responses))
        needed = max(least, min(len(responses), 2))
        reached = sum(text in scored for text in responses)
        if reached < needed:
            return self._owed(
                prompt,
                f"{reached} of {len(responses)} responses have verdicts on enough of the checklist"
                f", needed are {needed}; {failures[0]}",
            )
        if asked.weight(counted) < enough:
            return self._owed(
                prompt,
                f"{len(counted)} of {len(asked.items)} items have verdicts on all responses, "
                f"judge.min_read {self._config.min_read:g} asks for that share of their weight; "
                f"{failures[0]}",
            )
        scores = {
            text: asked.score(text, counted) if text in scored else None for text in asked.texts
        }
        rows = [
            ItemVerdicts(
                item=item,
                counts=place in counted,
                verdicts=[asked.found[text, place] for text in responses],
            )
            for place, item in enumerate(asked.items)
        ]
        found = tuple(scores[text] for text in responses)
        return Judgement(
            prompt_id=prompt.prompt_id,
            judge=self.name,
            scores=found,
            evidence=written(rows, found) if responses else "",
            missing=len(failures),
        )

    def _owed(self, prompt: Prompt, reason: str) -> Unjudged:
        return Unjudged(prompt_id=prompt.prompt_id, judge=self.name, reason=reason)
