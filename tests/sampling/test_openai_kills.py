import signal
import subprocess
import sys
import time

import pytest
from questions import PARAMS, answers, asked, engine, questions, texts

from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache

CLIENT = """
import sys
from pathlib import Path
from forethought.storage.reply_cache import Cache
from forethought.config import OpenAIEngine
from forethought.decoding.request import SamplingParams
from forethought.sampling.open import open_sampler
from forethought.types import Message, SampleRequest

url, path = sys.argv[1:]
requests = [
    SampleRequest(prompt_id=f"q{i}", messages=(Message(role="user", content=f"q{i}"),), seeds=(i,))
    for i in range(60)
]
params = SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=50)
engine = OpenAIEngine(base_url=url, model="m", concurrency=4)
with Cache(Path(path)) as cache:
    with open_sampler(engine, model=None, params=params, cache=cache, token_ids=False) as sampler:
        print("begun", flush=True)
        for result in sampler.sample(requests):
            print(result.prompt_id, flush=True)
"""


def test_a_server_killed_midway_and_started_elsewhere_is_asked_for_the_rest_only(serve, tmp_path):
    server = serve("--delay", "0.02")
    config = engine(server.base_url, attempts=2, concurrency=4)
    with Cache(tmp_path / "cache.sqlite") as cache:
        with open_sampler(
            config, model=None, params=PARAMS, cache=cache, token_ids=False
        ) as sampler:
            results = iter(sampler.sample(questions(80)))
            first = [next(results) for _ in range(20)]
            server.process.kill()
            with pytest.raises(ValueError, match="of 80 replies are kept") as caught:
                first += list(results)
        kept = cache.counts()["calls"]
        assert f"{kept} of 80 replies" in str(caught.value)
        assert 20 <= len(first) <= kept < 80
        other = serve()
        assert other.base_url != server.base_url
        config = engine(other.base_url)
        assert texts(asked(config, questions(80), cache)) == answers(80)
        assert len(other.requests()) == 80 - kept
        assert cache.counts()["calls"] == 80


def client(url: str, path: object, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, url, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_killed_client_has_kept_every_reply(serve, tmp_path):
    server = serve("--delay", "0.05")
    path = tmp_path / "cache.sqlite"
    process = client(server.base_url, path)
    assert process.stdout is not None
    shown = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    shown += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    time.sleep(0.2)
    replied = len(server.requests())
    with Cache(path) as cache:
        assert texts(asked(engine(server.base_url), questions(60), cache)) == answers(60)
    asked_again = len(server.requests()) - replied
    # All but the four that were in flight; `begun` is the first line.
    assert replied - 4 <= 60 - asked_again <= replied
    assert 60 - asked_again >= len(shown) - 1 >= 19


def test_ctrl_c_ends_at_once(serve, tmp_path):
    server = serve(rules=[{"calls": [10, 10**9], "do": "hang"}])
    process = client(server.base_url, tmp_path / "cache.sqlite", stderr=subprocess.PIPE)
    assert process.stdout is not None
    # With four in flight, ten calls answered are six results in order at least.
    for _ in range(7):
        process.stdout.readline()
    time.sleep(0.3)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=20)
    assert time.monotonic() - begun < 2
    assert process.returncode in (-signal.SIGINT, 130)
    assert complained.strip().endswith("KeyboardInterrupt")
