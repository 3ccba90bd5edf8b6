"""Every recipe fragment in the documents is loaded and, with small models in their place, run."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai_server
import pytest
import yaml
from pydantic import TypeAdapter
from tiny import save_armorm, save_policy, save_reward_model

from forethought.config import (
    ArmoRMJudge,
    JudgeConfig,
    LaunchConfig,
    MeasuresConfig,
    ModelConfig,
    PromptsConfig,
    Recipe,
    SamplingConfig,
    VllmSampling,
    Workers,
)
from forethought.config.recipe_files import load_recipe
from forethought.decoding.request import SamplingParams
from forethought.judging.base import checked
from forethought.judging.llm.prompt_file import RatingPrompt, load_prompt
from forethought.judging.open import open_judge
from forethought.prompts import load_prompts, prompt_id_of
from forethought.sampling.open import open_sampler
from forethought.thoughts import load_format
from forethought.types import (
    Judgement,
    Message,
    Prompt,
    ResponseGroup,
    SampledPrompt,
    SampleRequest,
)

DOCS = Path(__file__).parent.parent / "docs"
FRAGMENT = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
MODULES = {
    "my_checks": CODE.findall((DOCS / "judges.md").read_text())[0],
    "my_judges": """
from forethought.types import Judgement

class Panel:
    name, floor = "panel", None

    def __init__(self, members):
        self.members = members

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def judge(self, groups):
        for group in groups:
            scores = tuple(float(self.members + len(one)) for one in group.responses)
            yield Judgement(
                prompt_id=group.prompt.prompt_id, judge="panel", scores=scores, evidence=""
            )
""",
}


def test_the_measures_of_the_evaluation_page_are_valid():
    found = FRAGMENT.findall((DOCS / "evaluation.md").read_text())
    sections = [MeasuresConfig.model_validate(yaml.safe_load(text)["measures"]) for text in found]
    named = {name for section in sections for name, value in section if value is not None}
    assert named == set(MeasuresConfig.model_fields)


def fragments(name: str, section: str) -> list[Any]:
    blocks = [yaml.safe_load(text) for text in FRAGMENT.findall((DOCS / name).read_text())]
    return [
        pytest.param(block[section], id=f"{number}-{block[section]['type']}")
        for number, block in enumerate(blocks)
        if section in block
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    save_policy(folder / "policy")
    save_reward_model(folder / "reward_model")
    save_armorm(folder / "armorm")
    replies = [
        ("The statement]", "[[yes]]"),
        ("Write the lines alone", "\n[[2]] It is right."),
        ("rating", "[[7]]"),
        ("", "[[A]]"),
    ]
    for match, reply in replies:
        line = {"match": match, "replies": [f"I thought about it. {reply}"]}
        with (folder / "script.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    server = openai_server.start("--model", str(folder / "policy"), "--dtype", "float32")
    yield server
    server.stop()


def with_small_models(judge: Any, folder: Path) -> Any:
    """The same judge, its models and servers replaced by what this machine has."""
    if judge["type"] in ("armorm", "reward_model"):
        return judge | {"path": str(folder / judge["type"])}
    if judge["type"] in ("pairwise", "rating", "checklist"):
        engine = {"type": "scripted", "path": str(folder / "script.jsonl")}
        return {key: value for key, value in judge.items() if key != "model"} | {"engine": engine}
    if judge["type"] == "mixture":
        for route in judge["routes"]:
            for member in route["members"]:
                member["judge"] = with_small_models(member["judge"], folder)
    return judge


def records() -> list[Any]:
    """Those that the chapter on judges shows."""
    found = re.findall(r"```json\n(.*?)```", (DOCS / "judges.md").read_text(), re.DOTALL)
    return [json.loads(each) for each in found]


def question() -> Prompt:
    return Prompt(
        prompt_id="p",
        messages=(Message(role="user", content="What is 2 + 2?"),),
        category="code",
        source="chat",
        reference="4",
    )


@pytest.mark.parametrize("fragment", fragments("judges.md", "judge"))
def test_a_judge_in_the_documents_scores(fragment, folder, tmp_path, monkeypatch):
    adapter = TypeAdapter[Any](JudgeConfig)
    adapter.validate_python(fragment)
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    prompt = question()
    if fragment.get("function") == "constraints":
        [record] = [each for each in records() if "reference" in each]
        prompt = replace(prompt, reference=json.dumps(record["reference"]))
    if fragment.get("items", "per_prompt") != "per_prompt":
        [record] = [each for each in records() if "items" in each]
        (tmp_path / fragment["items"]).write_text(json.dumps(record))
        monkeypatch.chdir(tmp_path)
        messages = (Message(role="user", content=record["prompt"]),)
        prompt = replace(prompt, messages=messages, prompt_id=prompt_id_of(messages))
    group = ResponseGroup(prompt=prompt, responses=("It is 4.", "5", "Perhaps 22?"))
    with open_judge(adapter.validate_python(with_small_models(fragment, folder))) as judge:
        [answer] = checked(judge, [group])
    assert isinstance(answer, Judgement), answer
    assert len(answer.scores) == 3


@pytest.mark.parametrize("fragment", fragments("engines.md", "sampling"))
def test_an_engine_in_the_documents_samples(fragment, folder, server):
    adapter = TypeAdapter[Any](SamplingConfig)
    config = adapter.validate_python(fragment)
    if config.type == "vllm":
        pytest.importorskip("vllm", reason="vLLM has an environment and tests of its own")
    changes = {
        "openai": {
            "base_url": server.base_url,
            "model": None,
            "api_key_env": None,
            "command": None,
        },
        "scripted": {"path": folder / "script.jsonl"},
    }
    config = config.model_copy(update=changes.get(config.type, {}))
    request = SampleRequest(
        prompt_id="p", messages=(Message(role="user", content="Hello"),), seeds=(1, 2)
    )
    params = SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=8)
    model = ModelConfig(path=str(folder / "policy"), dtype="float32")
    with open_sampler(config, model=model, params=params) as sampler:
        [result] = sampler.sample([request])
    assert isinstance(result, SampledPrompt), result
    assert all(completion.token_ids for completion in result.completions)


def test_the_prompt_file_in_the_documents_is_one(tmp_path):
    blocks = FRAGMENT.findall((DOCS / "judges.md").read_text())
    [text] = [block for block in blocks if "verdicts:" in block]
    (tmp_path / "chess.yaml").write_text(text)
    prompt = load_prompt(str(tmp_path / "chess.yaml"), "pairwise")
    assert prompt.labels == ("[[A]]", "[[B]]", "[[C]]")


@pytest.mark.parametrize(
    ("name", "section", "adapter"),
    [
        ("judges.md", "judge", TypeAdapter[Any](JudgeConfig)),
        ("engines.md", "sampling", TypeAdapter[Any](SamplingConfig)),
    ],
)
def test_every_kind_has_its_fragment(name, section, adapter):
    kinds = set(adapter.json_schema()["discriminator"]["mapping"])
    shown = {fragment.values[0]["type"] for fragment in fragments(name, section)}
    assert shown == kinds


def test_the_sections_of_the_scaling_page_are_valid():
    blocks = [yaml.safe_load(text) for text in FRAGMENT.findall((DOCS / "scaling.md").read_text())]
    launches = [LaunchConfig.model_validate(block["launch"]) for block in blocks]
    assert {launch.type for launch in launches} == {"torchrun", "ray"}
    [cluster] = [block for block in blocks if "sampling" in block]
    sampling = VllmSampling.model_validate(cluster["sampling"])
    judge = ArmoRMJudge.model_validate(cluster["judge"])
    assert sampling.workers == judge.workers == Workers(count=8, gpus=1)
    recipe = yaml.safe_load((DOCS.parent / "recipes" / "ray-cluster.yaml").read_text())
    assert recipe["launch"].items() <= cluster["launch"].items()


def test_the_format_in_the_documents_splits_as_they_say(tmp_path):
    text, examples = FRAGMENT.findall((DOCS / "formats.md").read_text())
    (tmp_path / "plan.yaml").write_text(text)
    plan = load_format(str(tmp_path / "plan.yaml"))
    [asked] = plan.apply([Message(role="user", content="What is 2 + 3?")])
    assert asked.content.startswith('First write a short plan after "My plan:". Then')
    assert asked.content.endswith('after "My answer:".\n\nUser query: What is 2 + 3?')
    for example in yaml.safe_load(examples):
        parsed = plan.parse(example["output"])
        found = parsed.thought and parsed.thought.strip(), parsed.response
        assert found == (example["thought"], example["response"]), example["output"]


def test_the_rating_file_in_the_documents_is_one(tmp_path):
    blocks = FRAGMENT.findall((DOCS / "judges.md").read_text())
    [text] = [block for block in blocks if "scale: [" in block]
    (tmp_path / "close.yaml").write_text(text)
    prompt = load_prompt(str(tmp_path / "close.yaml"), "rating")
    assert prompt.scale == (0, 4)
    assert prompt.label == RatingPrompt.model_fields["label"].default
    [asked] = prompt.messages(question(), ("It is 4.",))
    assert "It is 4.\n[Reference solution]\n4\n" in asked.content


def test_the_verifier_in_the_documents_reads_the_reference():
    module: dict[str, Any] = {}
    exec(MODULES["my_checks"], module)
    assert module["grade"](question(), "It is 4.") == 1
    assert module["grade"](question(), "Five.") == 0
    assert 0 < module["grade"](question(), "4 " * 99) < 1


def test_the_saved_folder_in_the_documents_is_read(tmp_path, monkeypatch):
    page = (DOCS / "prompts.md").read_text()
    _, fragment = FRAGMENT.findall(page)
    monkeypatch.chdir(tmp_path)
    exec(CODE.findall(page)[0], {})
    config = PromptsConfig.model_validate(yaml.safe_load(fragment))
    loaded = load_prompts(config.train, lambda text: text).prompts
    assert [(prompt.reference, prompt.category) for prompt in loaded] == [
        ("5", "sums"),
        ("Warsaw", "facts"),
    ]


def test_the_prompts_page_is_a_section_of_a_recipe():
    text, _ = FRAGMENT.findall((DOCS / "prompts.md").read_text())
    shown = PromptsConfig.model_validate(yaml.safe_load(text))
    assert (shown.max_tokens, len(shown.train)) == (1000, 4)


def test_the_near_online_page_is_the_recipe_in_small():
    [text] = FRAGMENT.findall((DOCS / "near-online.md").read_text())
    recipe = load_recipe([str(DOCS.parent / "recipes" / "near-online.yaml")])
    shown = Recipe.model_validate(
        {**recipe.model_dump(exclude={"training", "selection", "evaluation", "keep", "launch"})}
        | yaml.safe_load(text)
    )
    assert shown.launch == recipe.launch
    assert shown.selection == recipe.selection
    assert shown.training.checkpoint_dtype == recipe.training.checkpoint_dtype == "float32"
    assert (shown.iterations, len(shown.evaluated)) == (200, 11)
