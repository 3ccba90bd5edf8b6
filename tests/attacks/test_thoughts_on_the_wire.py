"""500 streams at once, a secret in every thought: it is nowhere in what the server sent or said."""

import asyncio
import json
import secrets

import httpx
from scripted_backend import ScriptedBackend, script
from served import MODEL, asked, served

from forethought.serving.backends.base import BackendError, RefusedDrawError
from forethought.serving.http.keys import new_key

STREAMS = 500
SECONDS = 4.0
"""Every thought takes at least so long, so that all are there at once."""
CANARY = "kanarienvogel" + secrets.token_hex(8)


REFUSAL = RefusedDrawError("too long")


def outputs(draw):
    """A thought with the secret in it, in every shape that an output can have."""
    number = int(draw.messages[-1].content.rsplit(" ", 1)[1])
    thought = f"I know {CANARY} and <R that> {CANARY}"
    cut = 1 + number % 9
    slowly = SECONDS / (len(thought) / cut)
    match number % 10:
        case 0:
            return script(thought, cut=cut, delay=slowly)  # no response at all
        case 1:
            return script(f"{thought}<R>", cut=cut, delay=slowly)  # an empty one
        case 2:
            return script(thought, cut=cut, delay=slowly, finish=None, error=BackendError("gone"))
        case 3:
            return script(thought, cut=cut, delay=slowly, finish=None, error=KeyError(CANARY))
        case 4:
            return script(
                thought, cut=cut, delay=slowly, finish=None, error=RefusedDrawError("too long")
            )
        case 5:
            return script(
                f"{thought} <R> half an", cut=cut, delay=slowly, finish="length", logprobs=True
            )
        case _:
            text = f"{thought} <R> answer {number}"
            return script(text, cut=cut, delay=slowly, logprobs=True)


def test_no_byte_of_a_thought_leaves_the_server(tmp_path, capfd):
    private = tmp_path / "private.jsonl"
    keys = tmp_path / "keys"
    key = new_key("visitor")
    keys.write_text(key.line)
    backend = ScriptedBackend(outputs)
    settings = {"slots": 2 * STREAMS, "api_keys": keys, "private_log": private}
    with served(backend, **settings) as server:
        sent, answers = asyncio.run(every_stream(server.url, key.secret))
        for path in ("/metrics", "/health", "/v1/models", "/openapi.json", "/"):
            headers = {"Authorization": f"Bearer {key.secret}"}
            reply = httpx.get(server.url + path, headers=headers)
            sent.append(repr(reply.headers.raw).encode() + reply.content)
        log = server.log()
    printed = "".join(capfd.readouterr())
    assert len(answers) == STREAMS
    whole = [number for number in range(STREAMS) if number % 10 >= 6]
    for number in whole:
        assert answers[number] in (f"answer {number}", None), answers[number]
    assert sum(answers[number] is not None for number in whole) == len(whole) - left(whole)
    everything = b"".join(sent) + log.encode() + printed.encode()
    assert len(everything) > 500_000
    for piece in (CANARY, CANARY[:13], CANARY[13:], "I know", json.dumps(CANARY)[1:-1]):
        assert piece.encode() not in everything
    assert private.read_text().count(CANARY) > STREAMS
    assert key.secret not in log
    assert log.count(" 499 ") <= left(range(STREAMS)), "nobody else left"
    assert backend.most >= STREAMS, "they were not all there at once"
    assert backend.open == 0


def left(whole):
    """How many of these leave before their answer."""
    return sum(number % 50 == 9 for number in whole)


async def every_stream(url, key):
    """All at once; every fiftieth client leaves. Returns raw bytes and the answers' texts."""
    limits = httpx.Limits(max_connections=STREAMS)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(limits=limits, timeout=60, headers=headers) as client:
        asking = [one_stream(client, url, number) for number in range(STREAMS)]
        found = await asyncio.gather(*asking)
    return [raw for raw, _ in found], {number: text for number, (_, text) in enumerate(found)}


async def one_stream(client, url, number):
    body = asked(f"number {number}", stream=True, logprobs=number % 2 == 0, seed=number)
    body |= {"n": 1 + number % 2, "stream_options": {"include_usage": True}}
    raw, text = b"", ""
    async with client.stream("POST", url + "/v1/chat/completions", json=body) as reply:
        raw += repr(reply.headers.raw).encode()
        async for piece in reply.aiter_bytes():
            raw += piece
            if number % 50 == 9:
                return raw, None
    for block in raw.split(b"\n\n"):
        if block.startswith(b"data: {"):
            for choice in json.loads(block[6:]).get("choices", []):
                if choice["index"] == 0:
                    text += choice["delta"].get("content", "")
    assert MODEL.encode() in raw or b'"error"' in raw
    return raw, text
