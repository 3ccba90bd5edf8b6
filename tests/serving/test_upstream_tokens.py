"""In front of a server of a policy whose markers are tokens: split by the ids that it gives."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from openai_server import start
from tiny import save_policy
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import ModelConfig
from forethought.decoding.request import SamplingParams
from forethought.models.loading import load_runnable, load_tokenizer
from forethought.models.marker_tokens import add_marker_tokens
from forethought.models.rendering import decode
from forethought.sampling.transformers import TransformersSampler
from forethought.serving.backends.base import Draw
from forethought.serving.backends.upstream import UpstreamBackend, sends_token_ids
from forethought.thoughts import TOKENS, save_format
from forethought.types import Message, SampledPrompt, SampleRequest

WORDS = ("Name a list and a tuple.", "What is 17 + 25?", "Ask for more tea.")


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """Random weights that write the response token now and then."""
    folder = tmp_path_factory.mktemp("policy")
    plain = save_policy(folder / "plain")
    tokenizer = load_tokenizer(str(plain))
    model = load_runnable(str(plain), dtype="float32", device="cpu")
    assert add_marker_tokens(model, tokenizer, TOKENS)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    grown = folder / "grown"
    model.save_pretrained(grown)
    tokenizer.save_pretrained(grown)
    save_format(TOKENS, grown)
    return grown


def test_text_is_decoded_here_from_the_ids_of_the_server(policy, tmp_path):
    server = start("--model", str(policy), log=tmp_path / "log.jsonl")
    asked = {"model": str(policy), "api_key_env": None, "extra_body": {}}
    try:
        assert sends_token_ids(server.base_url, **asked)
        for words in WORDS:
            messages = (Message(role="user", content=words),)
            pieces = asyncio.run(drawn(server.base_url, policy, messages))
            text = sampled(policy, messages)
            assert "".join(piece.text for piece in pieces) == text
            assert len(text) > 10
    finally:
        server.stop()


async def drawn(address, policy, messages):
    backend = UpstreamBackend(
        address,
        model=str(policy),
        by_token=load_tokenizer(str(policy)),
        markers=TOKENS.markers,
    )
    draw = Draw(
        messages=messages,
        begun="",
        temperature=0.0,
        top_p=1.0,
        seed=0,
        max_tokens=60,
        top_logprobs=None,
    )
    async with aclosing(backend.draw(draw)) as pieces:
        found = [piece async for piece in pieces]
    await backend.close()
    return found


def sampled(policy, messages) -> str:
    """The output that the server's engine draws, decoded whole."""
    config = ModelConfig(path=str(policy), dtype="float32")
    params = SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=60)
    sampler = TransformersSampler.load(config, params=params, rows=64)
    [result] = sampler.sample([SampleRequest(prompt_id="0", messages=messages, seeds=(0,))])
    assert isinstance(result, SampledPrompt)
    ids = result.completions[0].token_ids
    return decode(load_tokenizer(str(policy)), ids, TOKENS.markers)


def test_a_server_without_token_ids_is_refused(policy, tmp_path):
    server = start(log=tmp_path / "log.jsonl")
    try:
        words = ["serve", str(policy), "--upstream", server.base_url]
        done = CliRunner().invoke(app, words)
    finally:
        server.stop()
    assert done.exit_code == 1
    assert "gives no token ids (return_token_ids" in " ".join(done.output.split())
    assert "without --upstream" in " ".join(done.output.split())
    assert "Traceback" not in done.output
