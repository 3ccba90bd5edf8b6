"""Markers that are special tokens: whatever makes text of ids keeps them, and nothing else."""

import pytest
from tiny import save_policy, save_tokenizer

from forethought.config import ModelConfig, TransformersEngine
from forethought.decoding.request import SamplingParams
from forethought.models import rendering
from forethought.sampling.base import one_prompt
from forethought.sampling.marked import MarkedSampler
from forethought.sampling.open import open_sampler
from forethought.serving.backends.detokenize import IncrementalDetokenizer
from forethought.thoughts import ThoughtFormat, first_response_token
from forethought.types import Message, SampleRequest

OWN = ThoughtFormat(
    name="own",
    thought_starts_after=("<|plan|>",),
    thought_marker_optional=True,
    response_starts_after=("<|answer|>",),
)
THINK = ThoughtFormat(
    name="think",
    thought_starts_after=("[THINK]",),
    thought_marker_optional=True,
    response_starts_after=("[/THINK]",),
)
SPECIAL = ["[THINK]", "[/THINK]", "<|plan|>", "<|answer|>", "<|tool|>"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = save_tokenizer(tmp_path_factory.mktemp("special"), "llama")
    made.add_tokens(SPECIAL, special_tokens=True)
    return made


@pytest.mark.parametrize("thought_format", [OWN, THINK], ids=["own", "think"])
def test_markers_survive_and_other_special_tokens_do_not(tokenizer, thought_format):
    opening, closing = thought_format.markers
    written = (
        f"{opening}2 + 3 is 5.<|tool|>{closing}It is 5.<|start_header_id|>{tokenizer.eos_token}"
    )
    ids = tokenizer.encode(written, add_special_tokens=False)
    ids = [*ids, tokenizer.pad_token_id]

    def decode(some):
        return rendering.decode(tokenizer, some, thought_format.markers)

    text = decode(ids)
    assert text == f"{opening}2 + 3 is 5.{closing}It is 5."
    parsed = thought_format.parse(text)
    assert (parsed.thought, parsed.response) == ("2 + 3 is 5.", "It is 5.")
    start = first_response_token(ids, parsed.response_offset, decode)
    assert decode(ids[start:]) == "It is 5."
    decoding = IncrementalDetokenizer(tokenizer, [], thought_format.markers)
    assert "".join(map(decoding.push, ids)) + decoding.finish() == text


def test_tags_of_common_models_survive_without_being_named(tokenizer):
    ids = tokenizer.encode("[THINK]a[/THINK]b<|answer|>", add_special_tokens=False)
    assert rendering.decode(tokenizer, ids) == "[THINK]a[/THINK]b"
    plain = tokenizer.encode("a<|answer|>b", add_special_tokens=False)
    assert rendering.decode(tokenizer, plain) == "ab"


def test_what_is_gone_on_from_has_its_markers_as_tokens(tokenizer):
    text = "<|plan|>a <|tool|> b\n\n<|answer|>"
    ids = rendering.encode_output(tokenizer, text, OWN.markers)
    assert rendering.decode(tokenizer, ids, OWN.markers) == text
    opening, closing = tokenizer.convert_tokens_to_ids(["<|plan|>", "<|answer|>"])
    assert (ids[0], ids[-1]) == (opening, closing)
    assert tokenizer.convert_tokens_to_ids("<|tool|>") not in ids


def test_a_sampler_keeps_the_markers_of_its_format(tmp_path):
    folder = save_policy(tmp_path / "policy")
    marked = ThoughtFormat(name="own", response_starts_after=("<|start_header_id|>",))
    request = SampleRequest(
        prompt_id="p", messages=(Message(role="user", content="Hi"),), seeds=tuple(range(40))
    )
    texts = {}
    for markers in ((), marked.markers):
        sampler = open_sampler(
            TransformersEngine(),
            model=ModelConfig(path=str(folder), dtype="float32"),
            params=SamplingParams(temperature=2.0, top_p=1.0, max_new_tokens=60),
            markers=markers,
        )
        assert isinstance(sampler, MarkedSampler) == bool(markers)
        with sampler:
            sampled = one_prompt(next(sampler.sample([request])))
        texts[markers] = [completion.text for completion in sampled.completions]
    kept = texts[marked.markers]
    assert any("<|start_header_id|>" in one for one in kept)
    assert [one.replace("<|start_header_id|>", "") for one in kept] == texts[()]
