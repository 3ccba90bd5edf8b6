import json

import openai_server
import pytest
import tiny
from questions import engine

from forethought.config import ModelConfig, TransformersEngine
from forethought.decoding.request import SamplingParams
from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache
from forethought.types import Message, SampledPrompt, SampleRequest, Unsampled

PARAMS = SamplingParams(temperature=0.9, top_p=0.95, max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_policy(tmp_path_factory.mktemp("policy"), max_position_embeddings=256)


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """Serves the policy, and in other ways what asks for it."""

    def reply(**choice):
        return {"do": "merge", "reply": {"choices": [choice]}}

    rules = [
        {"match": "without ids", **reply(token_ids=None)},
        {"match": "without prompt", "do": "merge", "reply": {"prompt_token_ids": None}},
        {"match": "another end", **reply(token_ids=[5, 6], finish_reason="stop")},
        {"match": "no output", **reply(token_ids=[], finish_reason="stop")},
        {"match": "parsed", **reply(message={"content": "5", "reasoning": "2 + 3"})},
        {"match": "two ways", "first": 1, "do": "merge", "reply": {"prompt_token_ids": [1]}},
        {
            "match": "sglang",
            "do": "merge",
            "reply": {"prompt_token_ids": None, "choices": [{"prompt_token_ids": [7, 8]}]},
        },
    ]
    home = tmp_path_factory.mktemp("server")
    words = ["--model", str(folder), "--served", "policy", "--rules", json.dumps(rules)]
    started = openai_server.start(*words, log=home / "log.jsonl")
    yield started
    started.stop()


def asking(text: str, *seeds: int) -> SampleRequest:
    return SampleRequest(
        prompt_id=text[:20], messages=(Message(role="user", content=text),), seeds=seeds or (1,)
    )


def sampled(server, folder, *requests: SampleRequest, cache=None, **settings):
    config = engine(server.base_url, **({"model": None} | settings))
    model = ModelConfig(path=str(folder), dtype="float32", device="cpu")
    with open_sampler(config, model=model, params=PARAMS, cache=cache) as sampler:
        return list(sampler.sample(requests))


def test_a_server_gives_what_the_embedded_engine_gives(server, folder):
    seeds = tuple(2**31 * 5 + seed for seed in range(16))
    requests = [asking("What is 2 + 3?", *seeds), asking("Say <|eot_id|> twice", 2**62 + 7)]
    wired = [
        SampleRequest(
            prompt_id=request.prompt_id,
            messages=request.messages,
            seeds=tuple(seed % 2**31 for seed in request.seeds),
        )
        for request in requests
    ]
    model = ModelConfig(path=str(folder), dtype="float32", device="cpu")
    with open_sampler(TransformersEngine(), model=model, params=PARAMS) as local:
        expected = list(local.sample(wired))
    assert sampled(server, folder, *requests) == expected
    completions = [c for one in expected if isinstance(one, SampledPrompt) for c in one.completions]
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    assert len({completion.token_ids for completion in completions}) > 4


def test_only_the_nucleus_decides(server, folder):
    sampled(server, folder, asking("anything"))
    body = server.bodies()[-1]
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0, 1)
    assert body["return_token_ids"] is True
    assert body["model"] == "policy"


def test_a_prompt_without_room_is_unsampled(server, folder):
    long, short = sampled(server, folder, asking("tea " * 300), asking("tea"))
    assert isinstance(long, Unsampled)
    assert "takes 256 tokens" in long.reason
    assert isinstance(short, SampledPrompt)


def test_outputs_are_kept_for_this_policy_alone(server, folder, tmp_path):
    with Cache() as cache:
        first = sampled(server, folder, asking("a cache", 1, 2), cache=cache)
        calls = len(server.bodies())
        assert sampled(server, folder, asking("a cache", 1, 2), cache=cache) == first
        assert (len(server.bodies()), cache.hits) == (calls, 2)
        with open_sampler(
            engine(server.base_url, model="policy"),
            model=None,
            params=PARAMS,
            cache=cache,
            token_ids=False,
        ) as sampler:
            (one,) = sampler.sample([asking("a cache", 1)])
    assert len(server.bodies()) == calls + 1
    assert isinstance(one, SampledPrompt)
    assert one.completions[0].token_ids == ()


def test_the_policy_may_be_named_in_other_words(server, folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    for path in (tmp_path / "link", f"./{folder.name}", f"{folder}/"):
        (one,) = sampled(server, path, asking("hello"), model="policy")
        assert isinstance(one, SampledPrompt)


def test_another_policy_is_never_sampled(serve, server, folder, tmp_path):
    newer = tiny.save_policy(tmp_path / "newer")
    before = len(server.bodies())
    words = rf"serves {folder}, and the policy to sample now is {newer}; start the server with"
    with pytest.raises(ValueError, match=words):
        sampled(server, newer, asking("hello"))
    assert len(server.bodies()) == before
    # Where the server tells no root, its model's id is what it serves.
    plain = serve("--served", str(newer), "--served", "organisation/model")
    for name in ("organisation/model", str(newer)):
        with pytest.raises(ValueError, match=rf"serves {name}, and the policy .* {folder};"):
            sampled(plain, folder, asking("hello"), model=name)
    with pytest.raises(ValueError, match=r"serves .*; name the one .*, which is 'policy' now"):
        sampled(plain, folder, asking("hello"), model="policy")


@pytest.mark.parametrize("case", ["without ids", "without prompt", "no output"])
def test_a_server_without_token_ids_is_refused(server, folder, case):
    with pytest.raises(ValueError, match=r"gives no token ids .* training cannot use .*vLLM"):
        sampled(server, folder, asking(case))


def test_a_server_that_ends_outputs_otherwise_is_refused(server, folder):
    with pytest.raises(ValueError, match=r"ended an output with token 6 .*stop words"):
        sampled(server, folder, asking("another end"))


def test_a_server_that_cuts_the_thought_out_is_refused(server, folder):
    with pytest.raises(ValueError, match="start the server without a reasoning parser"):
        sampled(server, folder, asking("parsed"))


def test_prompt_ids_may_stand_in_the_choice(server, folder):
    (one,) = sampled(server, folder, asking("sglang"))
    assert isinstance(one, SampledPrompt)
    assert one.prompt_token_ids == (7, 8)


def test_a_prompt_rendered_in_two_ways_is_unsampled(server, folder):
    (one,) = sampled(server, folder, asking("two ways", 1, 2), concurrency=1)
    assert isinstance(one, Unsampled)
    assert "two ways" in one.reason


def test_a_model_without_generation_config_has_its_end_tokens(serve, tmp_path):
    folder = tiny.save_policy(tmp_path / "plain")
    (folder / "generation_config.json").unlink()
    server = serve("--served", str(folder))
    with pytest.raises(ValueError, match="gives no token ids"):
        sampled(server, folder, asking("hello"))
