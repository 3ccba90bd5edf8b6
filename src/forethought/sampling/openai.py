"""Any server with an OpenAI-compatible chat endpoint: vLLM, SGLang, llama.cpp, Ollama, hosted.

One call per output, `concurrency` of them in flight, each reply kept in the cache the moment it
arrives; a reply that is there is not asked for again, at whatever address the server stands. As a
judge's engine a text is enough. As the policy's sampler the server must serve the policy itself and
give token ids (served_policy.py).

The body has the fields that every server knows: `model`, `messages`, `n`, `seed`, `temperature`,
`top_p`, `max_tokens`; where a hosted model refuses the last, `max_completion_tokens` in its place.
`seed` is the sample's seed modulo 2^31, since some servers take 32 bits; whether the same seed
gives the same output again is up to the server. `extra_body` is laid over these fields, and a null
in it takes a field out, for servers that do not know it.

A request that the server refuses, such as a conversation beyond its context, is `Unsampled`, and
so is one whose output the server breaks off in every try; chat_client/reply.py says how replies
are read. When a call's attempts are used up no more calls are begun, those in flight are given a
while to end, and one ValueError says what is kept and what is owed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Self

from forethought.chat_client.background import Background
from forethought.chat_client.client import (
    NEW_LIMIT,
    OLD_LIMIT,
    as_turns,
    check_extra_body,
    laid_over,
)
from forethought.chat_client.reply import (
    ChatReply,
    Usage,
    how_it_ended,
    read_chat_reply,
    said_and_thought,
)
from forethought.chat_client.retrying import (
    NeverWholeError,
    RefusedError,
    RetryingClient,
    UnreadableError,
)
from forethought.config import ModelConfig, OpenAIEngine
from forethought.decoding.request import SamplingParams
from forethought.progress.under_way import Tally
from forethought.sampling.base import refuse_openings
from forethought.sampling.cached import to_answer, to_completion
from forethought.sampling.served_policy import ONLY_NUCLEUS, ServedPolicy, no_token_ids
from forethought.storage.files import content_hash
from forethought.storage.reply_cache import Cache
from forethought.types import Completion, FinishReason, SampledPrompt, SampleRequest, Unsampled

OURS = ("model", "messages", "n", "stream", "return_token_ids")
HARMLESS = {"role": "user", "content": "Say hello."}

Answer = dict[str, Any]
"""An output as it is kept."""


@dataclass(frozen=True, slots=True)
class _Call:
    key: str
    conversation: str
    """The same for all seeds of a request."""
    turns: list[dict[str, str]]
    seed: int


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str


class OpenAISampler:
    """Samples at a server. `model` is the policy that it must serve, if `token_ids` are wanted.

    Example::

        engine = OpenAIEngine(base_url="http://localhost:8000/v1")
        with OpenAISampler(engine, None, params=…, cache=cache, token_ids=False) as sampler:
            for result in sampler.sample(requests):
                ...
    """

    def __init__(
        self,
        config: OpenAIEngine,
        model: ModelConfig | None,
        *,
        params: SamplingParams,
        cache: Cache | None,
        token_ids: bool,
    ) -> None:
        """Read the key, and ask the server for its models where that matters.

        Raises: ValueError if the key, the server or its model cannot be used.
        """
        self._config = config
        self._params = params
        self._cache = cache
        self._limit = OLD_LIMIT
        self._answered = False
        self._asking_harmless = asyncio.Lock()
        self._in_flight = 0
        self._one_ended = asyncio.Condition()
        self._policy = None
        check_extra_body(config.extra_body, OURS)
        if token_ids:
            assert model is not None, "whoever wants token ids names the policy"
            self._policy = ServedPolicy.load(model)
        self._client = RetryingClient(config)
        self._background = Background(config.concurrency)
        try:
            self._model = self._background.start(self._served_name()).result()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._background.close(self._client.close())

    def sample(self, requests: Sequence[SampleRequest]) -> Iterator[SampledPrompt | Unsampled]:
        """One result per request in order, as soon as it and those before it are complete.

        Raises: ValueError if the server stays down, or the recipe does not fit it.
        """
        refuse_openings(requests, "openai")
        plan = [self._calls(request) for request in requests]
        calls = {call.key: call for of_request in plan for call in of_request}
        refusals: dict[str, _Refusal] = {}

        async def answer(call: _Call, give_up: asyncio.Event) -> Answer | _Refusal:
            outcome = refusals.get(call.conversation) or await self._outcome(call, give_up)
            if isinstance(outcome, _Refusal):
                refusals[call.conversation] = outcome
            return outcome

        outcomes: dict[str, Answer | _Refusal] = {}
        how = f"asking {self._config.base_url}"
        tally, tokens = Tally(how, prompts=len(plan), outputs=len(calls)), 0
        with closing(self._background.results(calls.values(), answer)) as results:
            for request, of_request in zip(requests, plan, strict=True):
                while any(call.key not in outcomes for call in of_request):
                    try:
                        call, outcome = next(results)
                    except ValueError as error:
                        raise self._failure(error, outcomes, len(calls)) from None
                    outcomes[call.key] = outcome
                    if not isinstance(outcome, _Refusal):
                        tokens += len(outcome["token_ids"])
                    if tally.due or len(outcomes) == len(calls):
                        tally.tell(done=len(outcomes), tokens=tokens)
                yield _result(request, [outcomes[call.key] for call in of_request])

    def _calls(self, request: SampleRequest) -> list[_Call]:
        if self._policy is None:
            # Whoever wrote them made foreign contents harmless; a prompt's own marks stay.
            turns = as_turns(request.messages)
        else:
            turns = self._policy.turns(request.messages)
        asked = {
            "model": self._model,
            "params": asdict(self._params),
            "extra_body": self._config.extra_body,
            "messages": turns,
            "token_ids": self._policy.identity if self._policy else None,
        }
        conversation = content_hash(asked)
        return [
            _Call(content_hash([conversation, seed]), conversation, turns, seed)
            for seed in request.seeds
        ]

    async def _outcome(self, call: _Call, give_up: asyncio.Event) -> Answer | _Refusal:
        if self._cache is not None and (kept := self._cache.find(call.key)) is not None:
            self._answered = True
            return kept
        try:
            reply = await self._ask_counted(call, give_up)
        except NeverWholeError as failure:
            return _Refusal(str(failure))
        except RefusedError as refusal:
            await self._check_it_takes_others(refusal, give_up)
            return _Refusal(str(refusal))
        outcome = self._read(reply)
        if self._cache is not None and not isinstance(outcome, _Refusal):
            self._client.keep(self._cache, call.key, outcome, reply.usage)
        return outcome

    async def _ask_counted(self, call: _Call, give_up: asyncio.Event) -> ChatReply:
        self._in_flight += 1
        try:
            reply = await self._ask(call.turns, call.seed, give_up)
            self._answered = True
            return reply
        finally:
            self._in_flight -= 1
            async with self._one_ended:
                self._one_ended.notify_all()

    async def _ask(
        self, turns: list[dict[str, str]], seed: int, give_up: asyncio.Event
    ) -> ChatReply:
        limit = self._limit
        try:
            return await self._post(turns, seed, give_up)
        except RefusedError as refusal:
            if limit == NEW_LIMIT or NEW_LIMIT not in str(refusal):
                raise
        self._limit = NEW_LIMIT
        return await self._post(turns, seed, give_up)

    async def _post(
        self, turns: list[dict[str, str]], seed: int, give_up: asyncio.Event
    ) -> ChatReply:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": turns,
            "n": 1,
            "seed": seed % 2**31,
            "temperature": self._params.temperature,
            "top_p": self._params.top_p,
            self._limit: self._params.max_new_tokens,
        }
        if self._policy is not None:
            body |= {"return_token_ids": True, **ONLY_NUCLEUS}
            if self._policy.template:
                body["chat_template_kwargs"] = self._policy.template
        body = laid_over(body, self._config.extra_body)
        return await self._client.ask("/chat/completions", read_chat_reply, body, give_up)

    async def _check_it_takes_others(self, refusal: RefusedError, give_up: asyncio.Event) -> None:
        """Tell a server that refuses one conversation from one that refuses every body of ours.

        Raises: ValueError if it refuses a harmless one, too, and all those in flight.
        """
        async with self._asking_harmless:
            if self._answered:
                return
            try:
                await self._ask([HARMLESS], 0, give_up)
            except RefusedError:
                async with self._one_ended:
                    await self._one_ended.wait_for(lambda: self._answered or not self._in_flight)
                if self._answered:
                    return
                if isinstance(refusal, UnreadableError):
                    raise ValueError(str(refusal)) from None
                raise ValueError(
                    f"{self._client.name} takes no request at all: {refusal}; change what it "
                    "names, or take a field out with a null in extra_body"
                ) from None
            self._answered = True

    def _read(self, reply: ChatReply) -> Answer | _Refusal:
        choice = reply.choices[0]
        ended = how_it_ended(choice.finish_reason)
        if ended == "refused":
            return _Refusal(f"the server ended a reply with finish_reason {choice.finish_reason!r}")
        said, thought = said_and_thought(choice.message.content)
        if self._policy is None:
            completion = Completion(text=said, token_ids=(), finish_reason=self._ended(reply))
            return to_answer(completion, ())
        server = self._client.name
        if thought or choice.message.reasoning or choice.message.reasoning_content:
            raise ValueError(
                f"{server} cuts the reasoning out of its outputs, and training needs them whole; "
                "start the server without a reasoning parser"
            )
        prompt_ids = reply.prompt_token_ids or choice.prompt_token_ids
        if not prompt_ids:
            raise no_token_ids(server)
        completion = self._policy.completion(choice.token_ids, self._ended(reply), server)
        return to_answer(completion, prompt_ids)

    def _ended(self, reply: ChatReply) -> FinishReason:
        """How an output ended, told by its tokens where the server says nothing."""
        choice, usage = reply.choices[0], reply.usage or Usage()
        limit = self._params.max_new_tokens
        match how_it_ended(choice.finish_reason):
            case "stop" | "length" as ended:
                return ended
            case _ if self._policy is not None and choice.token_ids:
                return "stop" if choice.token_ids[-1] in self._policy.end_ids else "length"
            case _:
                return "length" if (usage.completion_tokens or 0) >= limit else "stop"

    async def _served_name(self) -> str:
        """The model's name at the server.

        Raises: ValueError if there is not one that is meant, or it is not the policy.
        """
        name = self._config.model
        if name is not None and self._policy is None:
            return name
        card = await self._client.model(name)
        if self._policy is not None:
            self._policy.check_served(card.root or card.id, self._client.name)
        return card.id

    def _failure(
        self, error: ValueError, outcomes: dict[str, Answer | _Refusal], total: int
    ) -> ValueError:
        """What stopped the calls, and how things stand."""
        if not outcomes:
            return error
        replies = sum(not isinstance(outcome, _Refusal) for outcome in outcomes.values())
        stand = (
            f"{replies} of {total} replies had come and none is kept, as there is no cache; the "
            "same command asks for them again"
        )
        if self._cache is not None:
            stand = (
                f"{replies} of {total} replies are kept and {total - len(outcomes)} are owed; the "
                "same command goes on from here"
            )
        return ValueError(f"{error}. {stand}")


def _result(
    request: SampleRequest, outcomes: Sequence[Answer | _Refusal]
) -> SampledPrompt | Unsampled:
    answers: list[Answer] = []
    for outcome in outcomes:
        if isinstance(outcome, _Refusal):
            return Unsampled(prompt_id=request.prompt_id, reason=outcome.reason)
        answers.append(outcome)
    prompts = {tuple(answer["prompt_token_ids"]) for answer in answers}
    if len(prompts) > 1:
        reason = "the server rendered it in two ways, as a template with today's date may do"
        return Unsampled(prompt_id=request.prompt_id, reason=reason)
    return SampledPrompt(
        prompt_id=request.prompt_id,
        prompt_token_ids=next(iter(prompts), ()),
        completions=tuple(map(to_completion, answers)),
    )
