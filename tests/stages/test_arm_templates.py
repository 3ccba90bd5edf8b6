"""Models that think by their template: variables of each arm, an honest baseline, what counts."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from tiny import save_policy, save_tokenizer

from forethought.config import ModelConfig
from forethought.config.recipe_files import load_recipe
from forethought.models import loading, rendering
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter
from forethought.report.page import write_report
from forethought.runs.policies import find_run_policy
from forethought.stages.checks.arm_templates import refuse_dishonest_templates
from forethought.storage.sealed_stage import read_manifest, read_records
from forethought.types import Arm, Message, Rollout

SWITCH = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
"""What Qwen3's template does with its switch."""
ALWAYS = SWITCH.replace(
    "{% if enable_thinking is defined and enable_thinking is false %}", ""
).replace("\n\n</think>\n\n{% endif %}", "\n")
"""A template that opens every answer with a thought."""
HI = [Message(role="user", content="Hi")]


def policy(folder: Path, template: str) -> Path:
    save_policy(folder, "qwen3")
    tokenizer = save_tokenizer(folder, "qwen3")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(folder))
    return folder


def recipe(folder: Path, *words: str):
    prompts = [json.dumps({"prompt": f"Question {i}: what is {i} + {i}?"}) for i in range(16)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts))
    replies = ["<think>secret one</think>Four.", "<think>secret two</think>Five, surely.", "Six."]
    (folder / "replies.jsonl").write_text(json.dumps({"match": "", "replies": replies}))
    (folder / "judge.py").write_text(
        "def longest(prompt, response):\n"
        "    assert 'secret' not in response, response\n"
        "    return float(len(response))\n"
    )
    (folder / "recipe.yaml").write_text(
        f"""
run: {folder}/run
model: {{path: {folder}/policy, dtype: float32}}
thought_format: tags
iterations: 1
prompts_per_iteration: 8
prompts:
  train: [{{type: file, path: {folder}/prompts.jsonl}}]
  validation: {{count: 3}}
  test: {{count: 4}}
sampling: {{type: scripted, path: {folder}/replies.jsonl, samples: 4, max_new_tokens: 40}}
judge: {{type: verifier, function: "judge:longest"}}
training: {{epochs: 1, batch_size: 4, learning_rate: 1e-3, dtype: float32}}
launch: {{threads: 1}}
"""
    )
    return load_recipe([str(folder / "recipe.yaml"), *words])


HONEST = "model.template={direct: {enable_thinking: false}}"


def test_variables_are_shared_or_of_one_arm():
    model = ModelConfig(path="m", template={"date": "today", "direct": {"enable_thinking": False}})
    assert model.of_arm("thought").template == {"date": "today"}
    assert model.of_arm("direct").template == {"date": "today", "enable_thinking": False}
    with pytest.raises(ValueError, match="direct is False; give that arm's variables"):
        ModelConfig(path="m", template={"direct": False})


@pytest.mark.parametrize(
    ("template", "words", "message"),
    [
        (SWITCH, [], r"has the direct arm think.*model.template=\{direct: \{enable_thinking: fal"),
        (SWITCH, ["model.template={enable_thinking: true}"], "has the direct arm think"),
        (SWITCH, ["model.template={enable_thinking: false}"], "the thought arm cannot think"),
        (ALWAYS, [], r"has the direct arm think.*arms: \[thought\]"),
        (SWITCH, [HONEST], None),
        (SWITCH, ["arms=[thought]"], None),
        (ALWAYS, ["arms=[thought]"], None),
        (SWITCH, ["thought_format=generic"], "has the direct arm think"),
        (SWITCH, ["thought_format=generic", "model.template={enable_thinking: false}"], None),
    ],
)
def test_a_baseline_that_thinks_is_refused(tmp_path, template, words, message):
    policy(tmp_path / "policy", template)
    made = recipe(tmp_path, *words)
    if message is None:
        refuse_dishonest_templates(made)
        return
    with pytest.raises(ValueError, match=message) as error:
        refuse_dishonest_templates(made)
    assert str(error.value).startswith("model.template: ")


def test_a_run_of_both_arms(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    policy(tmp_path / "policy", SWITCH)
    made = recipe(tmp_path, HONEST)
    run_recipe(made, Reporter(Console(quiet=True)))
    tokenizer = loading.load_tokenizer(str(tmp_path / "policy"))
    endings: dict[Arm, str] = {
        "thought": "<|im_start|>assistant\n",
        "direct": "<think>\n\n</think>\n\n",
    }
    for arm, ending in endings.items():
        folder = made.run / arm / "iteration_0" / "rollouts"
        rollouts = read_records(folder, Rollout, "part_00000")
        for rollout in rollouts:
            rendered = str(tokenizer.decode(list(rollout.prompt_token_ids)))
            assert rendered.endswith(ending)
            assert "secret" not in (rollout.parsed.response or "")
        thought = sum(bool(rollout.parsed.thought) for rollout in rollouts)
        assert read_manifest(folder).counts["with_thought"] == thought > 0
        # What was trained renders as it was trained, wherever it is taken.
        trained = made.run / arm / "iteration_0" / "selection" / "policy"
        variables = rendering.template_variables(ModelConfig(path=str(trained)))
        assert variables == made.model.of_arm(arm).template
        named = find_run_policy(f"{made.run}/{arm}/0")
        assert named is not None
        assert named.policy.template == variables
        prompt = str(tokenizer.decode(list(rendering.render(tokenizer, HI, variables))))
        assert prompt.endswith(ending)
    summary = json.loads((made.run / "summary.json").read_text())
    evaluated = summary["arms"]["direct"][0]
    assert evaluated["with_thought"] > 0
    write_report([made.run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert f"that thought unasked: {evaluated['with_thought']} of policy 0" in page
