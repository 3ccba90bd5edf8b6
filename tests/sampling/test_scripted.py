import pytest
import random_models
import tiny

from forethought.config import ModelConfig, ScriptedSampling
from forethought.decoding.request import SamplingParams
from forethought.sampling.base import one_prompt
from forethought.sampling.open import open_sampler
from forethought.types import Completion, Message, SampledPrompt, SampleRequest, Unsampled

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
        other, capital = map(one_prompt, sampler.sample(given))
        assert list(sampler.sample(given)) == [other, capital]
    assert other.completions[0].text == "w7"
    assert {c.text for c in capital.completions} == {"w1 w2 w3", "w4", "w5 w6"}


def test_token_ids_are_the_policys(script, policy):
    with opened(script, policy) as sampler:
        (one,) = map(one_prompt, sampler.sample([asking("w9", (1,))]))
    tokenizer = random_models.tokenizer()
    assert one.prompt_token_ids == tuple(tokenizer.encode("<user> w9 <assistant>"))
    assert one.completions[0].token_ids == (*tokenizer.encode("w7"), random_models.END)
    assert one.completions[0].finish_reason == "stop"


def test_a_long_reply_is_cut(script, policy):
    with opened(script, policy, limit=1) as sampler:
        (one,) = map(one_prompt, sampler.sample([asking("w9", (1,))]))
    assert one.completions[0].text == "w7"
    assert one.completions[0].finish_reason == "length"
    assert len(one.completions[0].token_ids) == 1


def test_without_a_policy_a_reply_is_a_text_of_any_length(script):
    with opened(script, None, limit=1) as sampler:
        (one,) = sampler.sample([asking("the capital", (1, 2, 3, 4))])
    assert isinstance(one, SampledPrompt)
    assert one.prompt_token_ids == ()
    assert {c.text for c in one.completions} <= {"w1 w2 w3", "w4", "w5 w6"}
    assert {len(c.text) for c in one.completions} > {2}
    assert one.completions[0] == Completion(
        text=one.completions[0].text, token_ids=(), finish_reason="stop"
    )


def test_a_prompt_that_the_template_refuses_is_unsampled(tmp_path, script):
    tiny.save_policy(tmp_path / "gemma", "gemma")
    system = (Message(role="system", content="Be brief."), Message(role="user", content="w9"))
    refused = SampleRequest(prompt_id="r", messages=system, seeds=(1,))
    with opened(script, ModelConfig(path=str(tmp_path / "gemma"))) as sampler:
        first, second = sampler.sample([refused, asking("w9", (1,))])
    assert isinstance(first, Unsampled)
    assert "System role" in first.reason
    assert one_prompt(second).completions[0].text == "w7"


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
    with pytest.raises(ValueError, match=r"path: .*none\.jsonl does not exist"):
        opened(tmp_path / "none.jsonl", policy)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        opened(empty, policy)
    empty.write_text('{"match": "x", "replies": ["y"]}')
    with opened(empty, policy) as sampler, pytest.raises(ValueError, match="no line matches"):
        sampler.sample([asking("w1", (1,))])
