"""What a client may ask at `/v1/chat/completions`, checked, and how it is told what is wrong.

The body is OpenAI's. Departures: fields that are not known are ignored; what would change the
answer and cannot be done (tools, images, penalties, …: `REFUSED`) is refused; `max_tokens` and
`max_completion_tokens` both count the response alone, the thought has a budget of its own; `think`
(or `chat_template_kwargs.enable_thinking`) set to false asks without a thought, where the server
allows that (`ServerSettings.allow_think_off`). Numbers are not
read out of strings. Thoughts of earlier turns (`reasoning`, `reasoning_content`) are ignored.

    chat = read_chat(body, settings)    # raises ApiError
    chat.questions                      # one per wanted answer, for an Answerer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forethought.config import wanted
from forethought.sampling.base import stable_seed
from forethought.serving.backends.base import AnswerRequest
from forethought.serving.http.settings import ServerSettings
from forethought.types import Message, Role

INVALID = "invalid_request_error"
STOPS, STOP_LENGTH = 16, 1000
"""Stop strings of a request, and characters of one."""
RIVALS = 20
INT32, INT64 = 2**31 - 1, 2**63 - 1

REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, [], ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
}
"""Fields that are not supported, with the values that ask for nothing."""


class ApiError(Exception):
    """What a client is told instead of an answer. Holds nothing of an output.

    Example: `ApiError(404, "there is no model 'x'", param="model", code="model_not_found")`
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """In OpenAI's shape."""
        fields = {"type": self.kind, "param": self.param, "code": self.code}
        return {"error": {"message": self.message, **fields}}


class _Asked(BaseModel):
    # The parser would keep short texts of clients in a cache of its own.
    model_config = ConfigDict(
        strict=True,
        extra="allow",
        frozen=True,
        use_attribute_docstrings=True,
        cache_strings="keys",
    )


class ContentPart(_Asked):
    """A part of a turn; text is the only kind that is understood."""

    type: str = Field(json_schema_extra={"enum": ["text"]})
    text: str | None = None


class Turn(_Asked):
    """A turn of the conversation; the last one is the user's."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"] = Field(
        json_schema_extra={"enum": ["system", "developer", "user", "assistant"]}
    )
    content: str | list[ContentPart] | None = None
    """Only an assistant's may be null."""


class StreamOptions(_Asked):
    """Options of a stream."""

    include_usage: bool | None = None
    """A last chunk with the whole request's usage."""


class TemplateOptions(_Asked):
    """vLLM's way of asking without a thought."""

    enable_thinking: bool | None = None


class ChatRequest(_Asked):
    """A body of `POST /v1/chat/completions`."""

    model: str
    messages: list[Turn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=INT32)] | None = None
    seed: Annotated[int, Field(ge=-INT64 - 1, le=INT64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    """Tokens of the response at most."""
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    """The same by its newer name; the thought has a budget of its own."""
    stop: str | list[str] | None = None
    """End the response before the first of these strings in it."""
    logprobs: bool | None = None
    """Of the response's tokens."""
    top_logprobs: Annotated[int, Field(ge=0, le=RIVALS)] | None = None
    user: str | None = None
    """Not used and not kept."""
    think: bool | Literal["auto"] | None = None
    """`false`: without a thought; refused where the server does not allow it. Of a hybrid policy
    `auto`, the default, leaves it to the policy, and `true` makes it think."""
    chat_template_kwargs: TemplateOptions | None = None


_SHAPES: tuple[type[BaseModel], ...] = (
    ChatRequest,
    Turn,
    ContentPart,
    StreamOptions,
    TemplateOptions,
)
_FIELDS = frozenset(name for shape in _SHAPES for name in shape.model_fields)
"""What may stand in an error's place; the other steps are names of shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A checked request.

    Example: `Chat(questions=(AnswerRequest(…),), stream=True, include_usage=False)`
    """

    questions: tuple[AnswerRequest, ...]
    """One per wanted answer, in the order of choices."""
    stream: bool
    include_usage: bool


def read_chat(body: bytes, settings: ServerSettings) -> Chat:
    """Check a body and say what it asks in our words.

    Raises: ApiError naming the field that cannot be accepted.
    """
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    if asked.model != settings.model:
        raise ApiError(
            404,
            f"there is no model {asked.model[:100]!r} here; this server has {settings.model!r}",
            param="model",
            code="model_not_found",
        )
    _refuse_unsupported(asked)
    stops = _stops(asked)
    messages = _messages(asked, settings)
    limit = _limit(asked, settings)
    think = _thinks(asked, settings)
    count = asked.n or 1
    if count > settings.answers:
        raise _wrong("n", f"{count} answers at once; this server gives at most {settings.answers}")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise _wrong("top_logprobs", "needs logprobs set to true")
    if asked.stream_options is not None and not asked.stream:
        raise _wrong("stream_options", "is for requests with stream set to true")
    questions = tuple(
        AnswerRequest(
            messages=messages,
            think=think is not False or settings.hybrid,
            mode=MODES[think] if settings.hybrid else "auto",
            temperature=_given(asked.temperature, settings.temperature),
            top_p=_given(asked.top_p, settings.top_p),
            seed=choice_seed(asked.seed, index),
            max_tokens=limit,
            stop=stops,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            whole=not asked.stream,
        )
        for index in range(count)
    )
    options = asked.stream_options
    return Chat(
        questions=questions,
        stream=bool(asked.stream),
        include_usage=options is not None and bool(options.include_usage),
    )


def choice_seed(seed: int | None, index: int) -> int | None:
    """The seed of one of a request's answers, 63 bits; the first has the client's own."""
    if seed is None:
        return None
    seed %= 2**63
    return seed if index == 0 else stable_seed("choice", seed, index)


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _wrong(field: str, message: str) -> ApiError:
    return ApiError(400, f"{field}: {message}", param=field, code="invalid_value")


def _unsupported(field: str, message: str) -> ApiError:
    return ApiError(400, f"{field}: {message}", param=field, code="unsupported_value")


def _invalid(error: ValidationError) -> ApiError:
    """The deepest mistake: of a field with several shapes it is the one that was meant."""
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    mistake = max(mistakes, key=lambda entry: len(entry["loc"]))
    if mistake["type"] == "json_invalid":
        return ApiError(
            400,
            f"the body is not JSON: {mistake['msg'].removeprefix('Invalid JSON: ')}",
            code="invalid_json",
        )
    place = ""
    for step in mistake["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif (
            step in ChatRequest.model_fields
            or step in ContentPart.model_fields
            or step in Turn.model_fields
            or step in ("include_usage", "enable_thinking")
        ):
            place += f".{step}"
    place = place.removeprefix(".")
    if not place:
        return ApiError(400, "the body is not a JSON object", code="invalid_type")
    missing = mistake["type"] == "missing"
    said = f"{'it is missing; ' if missing else ''}give {wanted(ChatRequest, mistake)}"
    code = "missing_required_parameter" if missing else "invalid_type"
    return ApiError(400, f"{place}: {said}", param=place, code=code)


def _refuse_unsupported(asked: ChatRequest) -> None:
    for name, value in (asked.model_extra or {}).items():
        if name in REFUSED and value not in REFUSED[name]:
            raise _unsupported(name, "is not supported by this server; leave it out")


def _stops(asked: ChatRequest) -> tuple[str, ...]:
    stops = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if len(stops) > STOPS:
        raise _wrong("stop", f"{len(stops)} strings; at most {STOPS} are allowed")
    if any(not stop or len(stop) > STOP_LENGTH for stop in stops):
        raise _wrong("stop", f"a stop string has 1 to {STOP_LENGTH} characters")
    return stops


def _limit(asked: ChatRequest, settings: ServerSettings) -> int | None:
    """Tokens of the response at most: the client's wish within the server's limit."""
    old, new = asked.max_tokens, asked.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise _wrong("max_tokens", "differs from max_completion_tokens; give one of them")
    limits = [limit for limit in (old, new, settings.max_tokens) if limit is not None]
    return min(limits, default=None)


MODES: dict[bool | str | None, Literal["auto", "think", "direct"]] = {
    None: "auto",
    "auto": "auto",
    True: "think",
    False: "direct",
}
"""What `think` asks of a hybrid policy."""


def _thinks(asked: ChatRequest, settings: ServerSettings) -> bool | Literal["auto"] | None:
    """What the client wants: a thought, none, or what the policy decides.

    Raises: ApiError if this server does not have it.
    """
    field, think = "think", asked.think
    if think is None and asked.chat_template_kwargs is not None:
        field = "chat_template_kwargs.enable_thinking"
        think = asked.chat_template_kwargs.enable_thinking
    if think is False and not settings.allow_think_off:
        raise _unsupported(field, "this server does not let thinking be turned off; leave it out")
    if think == "auto" and not settings.hybrid:
        raise _unsupported(field, "auto is for a hybrid policy, which decides; leave it out")
    return think


def _messages(asked: ChatRequest, settings: ServerSettings) -> tuple[Message, ...]:
    if len(asked.messages) > settings.messages:
        raise _wrong(
            "messages", f"{len(asked.messages)} of them; this server takes {settings.messages}"
        )
    if asked.messages[-1].role != "user":
        raise _wrong("messages", "the last one must be the user's, which is then answered")
    return tuple(_message(turn, f"messages[{i}]") for i, turn in enumerate(asked.messages))


def _message(turn: Turn, place: str) -> Message:
    if turn.role in ("tool", "function"):
        raise _unsupported(f"{place}.role", "tools are not supported by this server")
    for name in ("tool_calls", "function_call", "audio"):
        if (turn.model_extra or {}).get(name):
            raise _unsupported(f"{place}.{name}", "is not supported by this server")
    role: Role = "system" if turn.role == "developer" else turn.role
    if isinstance(turn.content, str):
        return Message(role=role, content=turn.content)
    if turn.content is None:
        if role != "assistant":
            raise _wrong(f"{place}.content", "is missing")
        return Message(role=role, content="")
    return Message(role=role, content="".join(_texts(turn.content, place)))


def _texts(parts: list[ContentPart], place: str) -> list[str]:
    texts = []
    for number, part in enumerate(parts):
        where = f"{place}.content[{number}]"
        if part.type != "text":
            raise _unsupported(f"{where}.type", "only parts of type 'text' are supported")
        if part.text is None:
            raise _wrong(f"{where}.text", "is missing")
        texts.append(part.text)
    return texts
