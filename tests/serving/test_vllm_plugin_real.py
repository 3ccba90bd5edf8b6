"""The files for vLLM in vLLM itself: its own parser machinery, then its server and a policy."""

import importlib
import json
import os
import random
import re
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tiny import FAMILIES, save_tokenizer

from forethought.models import loading, rendering
from forethought.sampling.launched import LaunchedServer
from forethought.serving.vllm_plugin import write_chat_template, write_plugin
from forethought.thoughts import GENERIC, SPECIFIC, TAGS, ThoughtFormat
from forethought.types import Message

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` runs these tests")

TEXTS = 3000
QUESTION = "What is 17 + 25?"
EARLIER = [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."}]


@pytest.mark.parametrize("thought_format", [GENERIC, SPECIFIC, TAGS], ids=lambda one: one.name)
@pytest.mark.parametrize("show", [False, True], ids=["hidden", "shown"])
def test_streams_of_vllms_own_machinery_are_the_whole(thought_format, show, tmp_path):
    protocol = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
    parsers = importlib.import_module("vllm.parser").ParserManager
    reasoning_parsers = importlib.import_module("vllm.reasoning").ReasoningParserManager
    file = tmp_path / f"plugin_{thought_format.name}_{show}.py"
    name = write_plugin(thought_format, file, show_thoughts=show)
    reasoning_parsers.import_reasoning_parser(str(file))
    tokenizer = loading.load_tokenizer("microworld")
    kind = parsers.get_parser(reasoning_parser_name=name, tokenizer=tokenizer)
    prompt = tokenizer.encode(thought_format.instruction or "Think. </think> <R>")
    draw = random.Random(0)
    for _ in range(TEXTS):
        text = drawn_text(draw, thought_format)
        # A parser is not told how an output ended.
        splitter = thought_format.stream(served=True)
        parsed = splitter.feed(text, end="length")
        expected = (parsed.thought if show else "", parsed.response)
        thought = splitter.finish("length").thought or ""
        whole = (thought if show else "", parsed.response[parsed.restart :])
        request = protocol.ChatCompletionRequest(
            model="m", messages=[{"role": "user", "content": "Hi"}]
        )
        request = kind(tokenizer).adjust_request(request)
        reasoning, content, _ = kind(tokenizer).parse(text, request)
        assert (reasoning or "", content or "") == whole
        parser, sides = kind(tokenizer), ["", ""]
        chunks = cut(draw, text)
        for index, chunk in enumerate(chunks, 1):
            finished = index == len(chunks)
            delta = parser.parse_delta(
                chunk, [5], request, prompt_token_ids=prompt, finished=finished
            )
            if delta is not None:
                sides[0] += delta.reasoning or ""
                sides[1] += delta.content or ""
        assert tuple(sides) == expected, (text, chunks)


def drawn_text(draw: random.Random, thought_format: ThoughtFormat) -> str:
    markers = [*thought_format.thought_starts_after, *thought_format.response_starts_after]
    parts = [marker[: draw.randrange(1, len(marker))] for marker in markers]
    plain = [" ", "\n", "a", "é", "\U0001f914", "<", "Here", "```\n"]
    return "".join(draw.choices([*plain, *markers, *markers, *parts], k=draw.randrange(1, 12)))


def cut(draw: random.Random, text: str) -> list[str]:
    """Chunks of any length, empty ones among them, as a server's may be."""
    places = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("family", ["microworld", *FAMILIES])
def test_vllm_reads_contents_as_with_the_models_own_template(family, tmp_path):
    detect = importlib.import_module("vllm.renderers.hf")._detect_content_format
    folder = family
    if family != "microworld":
        save_tokenizer(tmp_path, family)
        (tmp_path / "config.json").write_text("{}")
        folder = str(tmp_path)
    file = tmp_path / "template.jinja"
    write_chat_template(folder, file, SPECIFIC)
    own = loading.load_tokenizer(folder).chat_template
    assert isinstance(own, str)
    parts = (
        "{% for m in messages %}{% for part in m['content'] %}{{ part.text }}{% endfor %}"
        "{% endfor %}"
    )
    head = file.read_text().removesuffix(own)
    for template in (own, parts):
        found = detect(head + template, default="string")
        assert found == detect(template, default="string")


@pytest.fixture(scope="module", params=[False, True], ids=["hidden", "shown"])
def server(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, bool]]:
    folder = tmp_path_factory.mktemp("files")
    name = write_plugin(GENERIC, folder / "hidden_thoughts.py", show_thoughts=request.param)
    write_chat_template("microworld", folder / "template.jinja", GENERIC)
    command = (
        f"{sys.executable} -m vllm.entrypoints.openai.api_server --model {{model}} --port {{port}} "
        "--served-model-name policy --dtype float32 --enforce-eager --max-model-len 1024 "
        f"--generation-config vllm --reasoning-parser-plugin {folder}/hidden_thoughts.py "
        f"--reasoning-parser {name} --chat-template {folder}/template.jinja"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        address = "http://127.0.0.1:{port}/v1"
        with LaunchedServer(command, address, "microworld", seconds=300) as server:
            yield server.base_url, request.param


def body(seed: int, **more: Any) -> dict[str, Any]:
    return {"model": "policy", "temperature": 1.0, "max_tokens": 90, "seed": seed} | more


def asked(base_url: str, **fields: Any) -> dict[str, Any]:
    turns = [*EARLIER, {"role": "user", "content": QUESTION}]
    reply = httpx.post(
        f"{base_url}/chat/completions", json=fields | {"messages": turns}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def raw(base_url: str, seed: int) -> str:
    """What the policy writes for the same conversation, rendered by us."""
    turns = [Message(role="user", content="Tea?"), Message(role="assistant", content="Yes.")]
    messages = GENERIC.apply([*turns, Message(role="user", content=QUESTION)])
    prompt = rendering.render(loading.load_tokenizer("microworld"), messages)
    reply = httpx.post(f"{base_url}/completions", json=body(seed, prompt=list(prompt)), timeout=60)
    return reply.json()["choices"][0]["text"]


def streamed(base_url: str, seed: int, **more: Any) -> tuple[str, str, str]:
    turns = [*EARLIER, {"role": "user", "content": QUESTION}]
    fields = body(seed, stream=True, messages=turns, **more)
    sides, wire = ["", ""], ""
    with httpx.stream("POST", f"{base_url}/chat/completions", json=fields, timeout=60) as reply:
        for line in reply.iter_lines():
            wire += line
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    sides[0] += choice["delta"].get("reasoning") or ""
                    sides[1] += choice["delta"].get("content") or ""
    return sides[0], sides[1], wire


def test_content_is_the_response_whole_and_streamed(server):
    base_url, show = server
    answered = 0
    for seed in range(12):
        text = raw(base_url, seed)
        splitter = GENERIC.stream()
        response = splitter.feed(text).response
        thought = (splitter.finish("stop").thought or "") if show else ""
        answered += bool(response)
        reply = asked(base_url, **body(seed))
        message = reply["choices"][0]["message"]
        assert (message["content"] or "") == response
        assert (message["reasoning"] or "") == thought
        assert streamed(base_url, seed)[:2] == (thought, response)
        spent = reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert 0 < spent <= reply["usage"]["completion_tokens"]
        assert (spent < reply["usage"]["completion_tokens"]) == bool(response)
    assert answered > 2


def test_nothing_else_shows_a_hidden_thought(server):
    base_url, show = server
    more = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    seed = next(seed for seed in range(20) if GENERIC.parse(raw(base_url, seed)).response)
    thought = GENERIC.parse(raw(base_url, seed)).thought
    assert thought
    whole = json.dumps(asked(base_url, **body(seed, **more, include_reasoning=True)))
    wire = streamed(base_url, seed, **more)[2]
    for sent in (whole, wire):
        assert ("process" in sent) == show
        assert ('logprob":' in sent.replace(" ", "")) == show
    assert (thought in whole) == show


def test_vllms_other_ways_to_chat_hide_thoughts_too(server):
    base_url, show = server
    asks = {
        "/responses": {
            "input": QUESTION,
            "max_output_tokens": 90,
            "include": ["message.output_text.logprobs"],
        },
        "/messages": {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 90},
    }
    for path, fields in asks.items():
        for stream in (False, True):
            sent = ""
            for _ in range(4):
                body = fields | {"model": "policy", "stream": stream}
                reply = httpx.post(f"{base_url}{path}", json=body, timeout=60)
                assert reply.status_code == 200, reply.text
                sent += reply.text
            # Where thoughts are shown most outputs of this policy have one; none begins otherwise.
            assert show or not re.search("guess|user asks|user wants|work it out|process:", sent)
            assert re.search(r"\d", sent)


def test_what_would_be_cut_wrongly_is_refused_and_the_server_lives(server):
    base_url, _ = server
    turns = [{"role": "user", "content": QUESTION}]
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    for more, said in (
        ({"response_format": {"type": "json_object"}}, "structured outputs are not supported"),
        ({"tools": [tool], "tool_choice": "none"}, "tools are not supported"),
    ):
        fields = body(0, messages=turns, **more)
        reply = httpx.post(f"{base_url}/chat/completions", json=fields, timeout=60)
        assert reply.status_code == 400, reply.text
        assert said in reply.text
    assert asked(base_url, **body(0, n=3))["choices"][2]["index"] == 2
