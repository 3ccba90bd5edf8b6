"""The files for vLLM, read without vLLM: its base class is a stand-in with the same verbs."""

import ast
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, save_tokenizer

from forethought.models import loading, rendering
from forethought.serving.vllm_plugin import write_chat_template, write_plugin
from forethought.thoughts import (
    DIRECT,
    GENERIC,
    SPECIFIC,
    TAGS,
    TOKENS,
    ThoughtFormat,
    save_format,
)
from forethought.types import Message

ODD = ThoughtFormat(
    name='odd """ name',
    instruction="Think.",
    thought_starts_after=("«a»", "aa'\"b"),
    response_starts_after=("ab", "\U0001f914→", "\\n<R>\n"),
)
FORMATS = [GENERIC, SPECIFIC, TAGS, ODD]
PIECES = [" ", "\n", "a", "b", "<", ">", "Hi", "é", "\U0001f914", "```\n", "Here", "Here is my "]


class Delta:
    def __init__(self, content=None, reasoning=None):
        self.content, self.reasoning = content, reasoning


class Parser:
    """What vLLM's base class has that the plugin uses."""

    engine_based_streaming = False

    def __init__(self, tokenizer, *args, **kwargs):
        self.model_tokenizer = tokenizer


class Manager:
    """Where a plugin registers its parser."""

    def __init__(self):
        self.parsers = {}

    def register_module(self, name, module):
        self.parsers[name] = module


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Writes a plugin and gives its parser, made for a tokenizer without special tokens."""
    protocol, reasoning = "vllm.entrypoints.generate.base.protocol", "vllm.reasoning"
    names = ["vllm", "vllm.entrypoints", "vllm.entrypoints.generate"]
    names += ["vllm.entrypoints.generate.base", protocol, reasoning]
    modules = {name: ModuleType(name) for name in names}
    vars(modules[protocol])["DeltaMessage"] = Delta
    vars(modules[reasoning]).update(
        ReasoningParser=Parser, ReasoningParserManager=(manager := Manager())
    )

    def loaded(source, tokenizer=None, **options):
        target = tmp_path_factory.mktemp("plugin") / "plugin.py"
        name = write_plugin(source, target, **options)
        module = ModuleType(f"{name}_{len(sys.modules)}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module.__name__, module)
            for item in modules.items():
                patch.setitem(sys.modules, *item)
            exec(compile(target.read_text(), str(target), "exec"), vars(module))
        kind = manager.parsers[name]
        return lambda: kind(tokenizer or SimpleNamespace(all_special_tokens=["</s>"]))

    return loaded


def texts(thought_format):
    """Texts that are mostly markers, parts of markers and what may be taken for them."""
    markers = [*thought_format.thought_starts_after, *thought_format.response_starts_after]
    parts = [marker[:cut] for marker in markers for cut in range(1, len(marker))]
    return st.lists(st.sampled_from([*PIECES, *markers, *markers, *parts]), max_size=12)


def chunks_of(text, cuts):
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in zip(places, [*places[1:], len(text)], strict=True)]


def streamed(parser, chunks):
    deltas, text = [], ""
    for chunk in chunks:
        deltas.append(parser.extract_reasoning_streaming(text, text + chunk, chunk, (), (), ()))
        text += chunk
        assert parser.has_engine_confirmed_reasoning_end() is False
    deltas.append(parser.finish_streaming())
    given = [delta for delta in deltas if delta is not None]
    assert all(one.reasoning or one.content for one in given)
    return tuple(
        "".join(one or "" for one in side)
        for side in zip(*[(one.reasoning, one.content) for one in given], strict=True)
    ) or ("", "")


@pytest.mark.parametrize("thought_format", FORMATS, ids=lambda one: one.name[:3])
def test_whole_and_streamed_are_what_our_splitter_gives(load, thought_format):
    shown, hidden = load(thought_format, show_thoughts=True), load(thought_format)

    @settings(max_examples=1000, deadline=None, database=None)
    @given(texts(thought_format), st.lists(st.integers(0, 60), max_size=8))
    def check(pieces, cuts):
        text = "".join(pieces)
        # vLLM does not say how an output ended.
        splitter = thought_format.stream(served=True)
        parsed = splitter.feed(text, end="length")
        expected = (parsed.thought, parsed.response)
        whole = (splitter.finish("length").thought or "", parsed.response[parsed.restart :])
        given = shown().extract_reasoning(text, None)
        assert tuple(side or "" for side in given) == whole
        for chunks in (chunks_of(text, cuts), list(text), [text]):
            assert streamed(shown(), chunks) == expected
            assert streamed(hidden(), chunks) == ("", expected[1])
        assert hidden().extract_reasoning(text, None) == (None, whole[1] or None)

    check()


@pytest.mark.parametrize("thought_format", [GENERIC, SPECIFIC, TAGS], ids=lambda one: one.name)
def test_tokens_before_the_response_are_counted(load, thought_format):
    tokenizer = loading.load_tokenizer("microworld")
    parser = load(thought_format, tokenizer)()
    opening = "".join(one + " " for one in thought_format.thought_starts_after[:1])
    for middle in (thought_format.response_starts_after[0], "never"):
        text = f"{opening}17 and 25?\n{middle}\n\n It is 42."
        ids = tokenizer.encode(text, add_special_tokens=False)
        count = parser.count_reasoning_tokens(ids)
        assert parser.extract_content_ids(ids) == ids[count:]
        response = thought_format.parse(rendering.decode(tokenizer, ids)).response
        if response is None:
            assert count == len(ids)
        else:
            assert 0 < count < len(ids)
            assert rendering.decode(tokenizer, ids[count:]).strip() == response
            assert response not in rendering.decode(tokenizer, ids[count + 1 :])
    assert parser.count_reasoning_tokens([]) == 0
    # Prompts may name the marker, and vLLM asks this of prompts.
    assert not parser.is_reasoning_end(tokenizer.encode("Answer after <R>."))


def test_requests_that_would_be_cut_wrongly_or_show_a_thought_are_changed(load):
    def request(tools=None, structured=None):
        return SimpleNamespace(
            tools=tools, include_reasoning=True, extract_structured_outputs=lambda: structured
        )

    hidden, shown = load(SPECIFIC)(), load(SPECIFIC, show_thoughts=True)()
    assert hidden.adjust_request(request()).include_reasoning is False
    assert shown.adjust_request(request()).include_reasoning is True
    with pytest.raises(ValueError, match="tools are not supported with the parser forethought_sp"):
        shown.adjust_request(request(tools=[{}]))
    with pytest.raises(ValueError, match="structured outputs are not supported"):
        hidden.adjust_request(request(structured={"type": "json"}))


def test_a_marker_that_vllm_would_leave_out_is_asked_for(load, tmp_path):
    tokenizer = save_tokenizer(tmp_path, "llama")
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    parser = load(TAGS, tokenizer)()
    assert parser.adjust_request(request_like()).skip_special_tokens is False
    ids = tokenizer.encode("<think>hm</think>yes", add_special_tokens=False)
    assert parser.extract_content_ids(ids) == tokenizer.encode("yes", add_special_tokens=False)
    plain = load(SPECIFIC, tokenizer)().adjust_request(request_like())
    assert not hasattr(plain, "skip_special_tokens")


def test_a_stream_is_split_by_token_where_the_markers_are_tokens(load, tmp_path):
    tokenizer = save_tokenizer(tmp_path, "llama")
    with pytest.raises(ValueError, match="the tokenizer lacks tokens of forethought_tokens"):
        load(TOKENS, tokenizer)()
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS.markers)})
    opening, closing = (tokenizer.convert_tokens_to_ids(marker) for marker in TOKENS.markers)

    def spelled(text):
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    ids = [opening, *spelled("I end with <|response|>SECRET"), closing]
    response = spelled("Five, behind <|response|>.")
    parser = load(TOKENS, tokenizer, show_thoughts=True)()
    text, deltas = "", []
    for at in range(len(ids + response)):
        known = (ids + response)[: at + 1]
        more = str(tokenizer.decode(known))
        # vLLM may hold text back: every other token's comes with the next one.
        piece = more[len(text) :] if at % 2 or at + 1 == len(ids + response) else ""
        deltas.append(
            parser.extract_reasoning_streaming(text, text + piece, piece, (), (), known[at:])
        )
        text += piece
    deltas.append(parser.finish_streaming())
    content = "".join(delta.content or "" for delta in deltas if delta is not None)
    thought = "".join(delta.reasoning or "" for delta in deltas if delta is not None)
    assert content.replace("\u2060", "") == "Five, behind <|response|>."
    assert thought.replace("\u2060", "") == "I end with <|response|>SECRET"
    assert parser.count_reasoning_tokens(ids + response) == len(ids)
    assert parser.adjust_request(request_like()).skip_special_tokens is False
    # Of a whole output it has the text alone: behind the last spelling nothing of a thought stands.
    assert parser.extract_reasoning(tokenizer.decode(ids + response), None)[1] == "."


def request_like():
    return SimpleNamespace(
        tools=None, include_reasoning=True, extract_structured_outputs=lambda: None
    )


def test_the_file_stands_alone_and_names_what_it_uses(tmp_path):
    write_plugin(ODD, tmp_path / "plugin.py")
    tree = ast.parse((tmp_path / "plugin.py").read_text())
    imported = {one.module or "" for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)}
    assert not [one for one in imported if one.startswith("forethought")]
    plain = [one.names[0].name for one in ast.walk(tree) if isinstance(one, ast.Import)]
    assert plain == ["re"]


def test_a_models_own_format_is_taken(tmp_path):
    save_tokenizer(tmp_path, "llama")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no thought_format\.json, which forethought writes"):
        write_plugin(str(tmp_path), tmp_path / "plugin.py")
    save_format(SPECIFIC, tmp_path)
    assert write_plugin(str(tmp_path), tmp_path / "plugin.py") == "forethought_specific"
    assert "'<R>'" in (tmp_path / "plugin.py").read_text()
    write_chat_template(str(tmp_path), tmp_path / "chat_template.jinja")
    assert "<R>" in (tmp_path / "chat_template.jinja").read_text()


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'direct' has no thoughts, so nothing is to hide"):
        write_plugin(DIRECT, tmp_path / "plugin.py")
    with pytest.raises(ValueError, match=r"plugin\.txt must end with \.py"):
        write_plugin(TAGS, tmp_path / "plugin.txt")
    with pytest.raises(ValueError, match="'tags' has no instruction"):
        write_chat_template("microworld", tmp_path / "template.jinja", TAGS)


@pytest.fixture(scope="module", params=["microworld", *FAMILIES])
def tokenizer_folder(request, tmp_path_factory):
    if request.param == "microworld":
        return "microworld"
    folder = tmp_path_factory.mktemp(request.param)
    save_tokenizer(folder, request.param)
    (folder / "config.json").write_text("{}")
    return str(folder)


def rendered(tokenizer, turns, template=None, **options):
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=False, chat_template=template, **options
    )


@pytest.mark.parametrize("thought_format", [GENERIC, SPECIFIC], ids=lambda one: one.name)
def test_the_template_puts_the_instruction_before_the_last_user_turn(
    tokenizer_folder, thought_format, tmp_path
):
    file = tmp_path / "template.jinja"
    write_chat_template(tokenizer_folder, file, thought_format)
    tokenizer = loading.load_tokenizer(tokenizer_folder)
    first = [Message(role="user", content="  What is <R>?\n")]
    later = [Message(role="assistant", content="I think.<R>A tag."), *first]
    for messages in (first, [*first, *later], [*first, *later, *later]):
        plain = [{"role": message.role, "content": message.content} for message in messages]
        told = thought_format.apply(messages)
        expected = [{"role": one.role, "content": one.content} for one in told]
        assert rendered(tokenizer, plain, file.read_text()) == rendered(tokenizer, expected)
        assert rendered(tokenizer, plain) != rendered(tokenizer, expected)


@settings(max_examples=60, deadline=None, database=None)
@given(
    st.lists(
        st.sampled_from(
            ["%}", "{{", "}}", "{%", "{#", "'", '"', "\\", "\n", "é", "\U0001f914", "a"]
        )
    )
)
def test_any_instruction_survives_the_template(pieces):
    odd = ThoughtFormat(name="x", instruction="".join(pieces), response_starts_after=("<R>",))
    tokenizer = loading.load_tokenizer("microworld")
    with TemporaryDirectory() as folder:
        file = Path(folder, "template.jinja")
        write_chat_template("microworld", file, odd)
        found = rendered(tokenizer, [{"role": "user", "content": "Hi"}], file.read_text())
    (told,) = odd.apply([Message(role="user", content="Hi")])
    assert found == rendered(tokenizer, [{"role": "user", "content": told.content}])


def test_the_template_takes_parts_and_keeps_what_else_it_is_given(tmp_path):
    folder = tmp_path / "model"
    tokenizer = save_tokenizer(folder, "llama")
    # A template that begins with a line break, has options, and joins parts.
    tokenizer.chat_template = (
        "\n  {%- for m in messages %}[{{ m.role }}{{ m.name }}]{% for part in m.content %}"
        "{{ part.text }}|{% endfor %}{% endfor %}{{ 'so' if wanted }}"
    )
    tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text("{}")
    file = tmp_path / "template.jinja"
    write_chat_template(str(folder), file, ODD)
    turn = {"role": "user", "name": "Ada", "content": [{"type": "text", "text": "Hi"}]}
    found = rendered(tokenizer, [turn], file.read_text(), wanted=True)
    assert found == "[userAda]Think.\n\nUser query: |Hi|so"
