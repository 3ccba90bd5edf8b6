import pytest
import random_models

from forethought.config import ModelConfig, ScriptedSampling
from forethought.sampling.base import SamplingParams, open_sampler
from forethought.types import Message, SampleRequest

SCRIPT = """{"match": "capital", "replies": ["w1 w2 w3", "w4", "w5 w6"]}

{"match": "", "replies": ["w7"]}
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    random_models.model().save_pretrained(folder)
    random_models.tokenizer().save_pretrained(folder)
    return ModelConfig(path=str(folder))


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text(SCRIPT)
    return path


def opened(path, policy, limit=10):
    params = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=limit)
    return open_sampler(ScriptedSampling(path=path), model=policy, params=params)


def asking(text: str, seeds: tuple[int, ...]) -> SampleRequest:
    return SampleRequest(prompt_id="p", messages=(Message(role="user", content=text),), seeds=seeds)


def test_the_first_match_answers_by_seed(script, policy):
    given = [asking("w9", (1,)), asking("the capital", tuple(range(60)))]
    with opened(script, policy) as sampler:
        other, capital = sampler.sample(given)
        assert list(sampler.sample(given)) == [other, capital]
    assert other.completions[0].text == "w7"
    assert {c.text for c in capital.completions} == {"w1 w2 w3", "w4", "w5 w6"}


def test_token_ids_are_the_policys(script, policy):
    with opened(script, policy) as sampler:
        (one,) = sampler.sample([asking("w9", (1,))])
    tokenizer = random_models.tokenizer()
    assert one.prompt_token_ids == tuple(tokenizer.encode("<user> w9 <assistant>"))
    assert one.completions[0].token_ids == (*tokenizer.encode("w7"), random_models.END)
    assert one.completions[0].finish_reason == "stop"


def test_a_long_reply_is_cut(script, policy):
    with opened(script, policy, limit=1) as sampler:
        (one,) = sampler.sample([asking("w9", (1,))])
    assert one.completions[0].text == "w7"
    assert one.completions[0].finish_reason == "length"
    assert len(one.completions[0].token_ids) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: needs exactly the fields"),
        ('{"match": "a"}', r"line 2: needs exactly .* not \['match'\]"),
        ('{"match": 1, "replies": ["a"]}', "line 2: match is 1"),
        ('{"match": "a", "replies": []}', "line 2: replies is"),
        ('{"match": "a", "replies": ["x", 3]}', "line 2: replies is"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, policy, line, message):
    path = tmp_path / "wrong.jsonl"
    path.write_text('{"match": "a", "replies": ["b"]}\n' + line)
    with pytest.raises(ValueError, match=rf"wrong\.jsonl, {message}"):
        opened(path, policy)


def test_missing_empty_and_unmatched(tmp_path, policy):
    with pytest.raises(ValueError, match="does not exist"):
        opened(tmp_path / "none.jsonl", policy)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        opened(empty, policy)
    empty.write_text('{"match": "x", "replies": ["y"]}')
    with opened(empty, policy) as sampler, pytest.raises(ValueError, match="no line matches"):
        sampler.sample([asking("w1", (1,))])
