import logging
import traceback

import pytest
from questions import PARAMS, asked, engine, questions, texts

from forethought.sampling.open import open_sampler
from forethought.storage.reply_cache import Cache

KEY = "sk-Very/Secret+0123456789"


def carried(error: BaseException | None) -> str:
    """All that an error carries: its chain, with the values in every frame but the test's own."""
    text = ""
    while error is not None:
        assert "request" not in dir(error)
        text += f"{error!r} {vars(error)}"
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                text += repr(frame.f_locals)
        error = error.__cause__ or error.__context__
    return text


def test_the_key_is_sent_and_appears_nowhere(serve, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("SOME_KEY", KEY)
    server = serve("--api-key", KEY, rules=[{"match": "q2", "status": 400, "message": KEY}])
    config = engine(server.base_url, model=None, api_key_env="SOME_KEY")
    with caplog.at_level(logging.DEBUG), Cache(tmp_path / "cache.sqlite") as cache:
        with open_sampler(
            config, model=None, params=PARAMS, cache=cache, token_ids=False
        ) as sampler:
            results = list(sampler.sample(questions(4)))
            shown = repr(sampler) + repr(vars(sampler)) + repr(vars(vars(sampler)["_client"]))
        files = b"".join(path.read_bytes() for path in tmp_path.glob("cache.sqlite*"))
    assert texts([results[0], results[1], results[3]]) == [["q0 / 0"], ["q1 / 1"], ["q3 / 3"]]
    assert KEY in str(server.requests()[0]["headers"])
    said = "".join(capfd.readouterr())
    for place in (repr(results), shown, caplog.text, said, repr(config), files.decode("latin-1")):
        assert KEY not in place
    assert "[key]" in repr(results[2])


@pytest.mark.parametrize(
    ("words", "status"),
    [(["--api-key", "another"], "status 401"), ([], "status 500"), ([], "ConnectError")],
)
def test_no_error_carries_the_key(serve, monkeypatch, caplog, words, status):
    monkeypatch.setenv("SOME_KEY", KEY)
    server = serve(*words, rules=[{"status": 500, "message": f"cannot: Bearer {KEY}"}])
    if status == "ConnectError":
        server.stop()
    for model in ("m", None) if status != "status 500" else ("m",):
        config = engine(server.base_url, model=model, attempts=2, api_key_env="SOME_KEY")
        with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match=status) as caught:
            asked(config, questions(3))
        assert KEY not in carried(caught.value) + caplog.text
        if status == "status 401":
            assert "environment variable SOME_KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SOME_KEY", None, "the environment variable SOME_KEY is not set or empty"),
        ("SOME_KEY", "  ", "the environment variable SOME_KEY is not set or empty"),
        ("SOME_KEY", "two words", "SOME_KEY holds a blank or a character"),
        ("SOME_KEY", "schlüssel", "SOME_KEY holds a blank or a character"),
        (KEY, None, "is no name of an environment variable"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_unseen(monkeypatch, name, value, words):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"api_key_env: .*{words}") as caught:
        asked(engine("http://localhost:1/v1", api_key_env=name), [])
    assert KEY not in str(caught.value)
    assert value is None or not value.strip() or value not in str(caught.value)


def test_a_short_key_is_no_secret_and_a_line_end_is_no_part_of_it(serve, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "EMPTY\r\n")
    server = serve("--api-key", "EMPTY", rules=[{"status": 404, "message": "EMPTY shelf"}])
    with pytest.raises(ValueError, match="EMPTY shelf"):
        asked(engine(server.base_url, api_key_env="SOME_KEY"), questions(1))
