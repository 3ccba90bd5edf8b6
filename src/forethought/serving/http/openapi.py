"""The server's OpenAPI description: the request from its pydantic model, the rest by hand."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from forethought.serving.http.protocol import STOP_LENGTH, STOPS, ChatRequest
from forethought.serving.http.settings import ServerSettings

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
MODEL = "/v1/models/{id}"
HEALTH = "/health"
METRICS = "/metrics"
OPENAPI = "/openapi.json"

Json = dict[str, Any]
TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "integer", "minimum": 0}


def description(settings: ServerSettings, *, keys: bool) -> Json:
    """The description of a server with these settings; `keys`: it demands one."""
    demanded: Json = {"security": [{"key": []}]} if keys else {}
    open_to_all: Json = {"security": []} if keys else {}
    models = _answer("The models.", _list(_ref("Model")))
    missing = {"404": _error("No such model.")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "forethought",
            "version": importlib.metadata.version("forethought"),
            "description": "Chat with a model that thinks before it answers; its thoughts stay.",
        },
        **demanded,
        "paths": {
            CHAT: {"post": _chat(settings.model, keys)},
            MODELS: {"get": {"responses": {"200": models, **_refusals(keys)}}},
            MODEL: {
                "get": {
                    "parameters": [{"name": "id", "in": "path", "required": True, "schema": TEXT}],
                    "responses": {
                        "200": _answer("The model.", _ref("Model")),
                        **missing,
                        **_refusals(keys),
                    },
                }
            },
            HEALTH: {
                "get": {
                    **open_to_all,
                    "responses": {
                        "200": _answer("Well.", _ref("Health")),
                        "503": _answer("Stopping, or the model fails.", _ref("Health")),
                        **_refusals(False),
                    },
                }
            },
            METRICS: {
                "get": {
                    "responses": {
                        "200": {"description": "Prometheus.", "content": {"text/plain": {}}},
                        **_refusals(keys),
                    }
                }
            },
        },
        "components": {
            "schemas": _schemas(settings),
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keys else {}),
        },
    }


def _chat(model: str, keys: bool) -> Json:
    whole = _answer("The answers.", _ref("Completion"))
    whole["content"]["text/event-stream"] = {"schema": _object(data=TEXT)}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("ChatRequest"), "examples": _examples(model)}
            },
        },
        "responses": {
            "200": whole,
            "400": _error("The body cannot be accepted; `param` names the field."),
            "404": _error("No such model."),
            "408": _error("The body came too slowly."),
            "413": _error("The body is too large."),
            "415": _error("The body is not JSON."),
            "429": _error("The queue is full; see Retry-After."),
            "502": _error("The model failed, or gave no response."),
            "503": _error("The server is shutting down."),
            "504": _error("The answer took too long."),
            **_refusals(keys),
        },
    }


def _examples(model: str) -> Json:
    question: Json = {"role": "user", "content": "What is 2 + 3?"}
    history: list[Json] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hello!"},
    ]
    plain: Json = {"model": model, "messages": [question]}
    full: Json = {
        "model": model,
        "messages": [*history, question],
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 2,
        "seed": 1,
        "temperature": 0.8,
        "top_p": 0.95,
        "max_completion_tokens": 200,
        "stop": ["\n\n"],
        "logprobs": True,
        "top_logprobs": 2,
    }
    return {"plain": {"value": plain}, "full": {"value": full}}


def _refusals(keys: bool) -> Json:
    if keys:
        return {"401": _error("No key, or a wrong one.")}
    return {"403": _error("Another host name or origin than this machine's.")}


def _schemas(settings: ServerSettings) -> Json:
    request = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = request.pop("$defs")
    request["properties"]["model"]["enum"] = [settings.model]
    request["properties"]["messages"]["maxItems"] = settings.messages
    request["properties"]["n"]["anyOf"][0]["maximum"] = settings.answers
    stop: Json = {"type": "string", "minLength": 1, "maxLength": STOP_LENGTH}
    stops: Json = {"type": "array", "items": stop, "maxItems": STOPS}
    request["properties"]["stop"]["anyOf"] = [stop, stops, {"type": "null"}]
    parts["ContentPart"]["properties"]["text"] = TEXT
    parts["ContentPart"]["required"] = ["type", "text"]
    message = _object(role=TEXT, content=TEXT)
    choice = _object(index=NUMBER, message=message, finish_reason={"enum": ["stop", "length"]})
    cost = _object(
        prompt_tokens=NUMBER,
        completion_tokens=NUMBER,
        total_tokens=NUMBER,
        completion_tokens_details=_object(reasoning_tokens=NUMBER),
    )
    error = _object(
        message=TEXT,
        type=TEXT,
        param={"type": ["string", "null"]},
        code={"type": ["string", "null"]},
    )
    return {
        **parts,
        "ChatRequest": request,
        "Completion": _object(
            id=TEXT,
            object={"const": "chat.completion"},
            created=NUMBER,
            model=TEXT,
            choices={"type": "array", "items": choice, "minItems": 1},
            usage=cost,
        ),
        "Model": _object(
            id=TEXT,
            object={"const": "model"},
            created=NUMBER,
            owned_by=TEXT,
            think_off={"type": "boolean"},
        ),
        "Health": _object(status={"enum": ["ok", "failing", "stopping"]}),
        "Error": _object(error=error),
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(item: Json) -> Json:
    return _object(object={"const": "list"}, data={"type": "array", "items": item})


def _answer(meaning: str, schema: Json) -> Json:
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}


def _error(meaning: str) -> Json:
    return _answer(meaning, _ref("Error"))
