"""A run on texts of its own, with a tiny random policy and a tiny random reward model."""

import json
from pathlib import Path

from rich.console import Console
from tiny import save_policy, save_reward_model

from forethought.config.recipe_files import load_recipe
from forethought.pipeline.loop import run_recipe
from forethought.progress.reporter import Reporter

PROMPTS = [
    {"prompt": "Write a haiku about rain.", "kind": "creative"},
    {"prompt": "حوّل هذه الجملة إلى الإنجليزية: أهلا وسهلا", "kind": "translation"},
    {"prompt": "def f(x):\n\treturn x ** 2\n\n# What does f(3) give?", "kind": "code"},
    {"prompt": "🙂🚀 Explain these two emoji. \u200d\u202eabc", "kind": "unicode"},
    {"prompt": "Sum the list. " + "1, " * 400, "kind": "long"},
    {"prompt": ["Name three rivers.", "Which one is the longest?"], "kind": "turns"},
    {
        "prompt": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello. How can I help?"},
            {"role": "user", "content": "What is 2 + 2?"},
        ],
        "kind": "conversation",
    },
    {"prompt": "Ответь одним словом: столица Франции?", "kind": "facts"},
    {"prompt": "请用一句话总结:今天下雨了。", "kind": "summary"},
    {"prompt": "<b>Bold</b> & <script>alert(1)</script>: is this HTML?", "kind": "html"},
]


def write_recipe(folder: Path, family: str = "llama") -> Path:
    """A recipe on text of its own, a tiny random policy and a tiny random reward model."""
    lines = [json.dumps(PROMPTS[i % 10] | {"n": i}, ensure_ascii=False) for i in range(10)]
    more = [json.dumps({"prompt": f"Question {i}: what is {i} + {i}?"}) for i in range(20)]
    (folder / "prompts.jsonl").write_text("\n".join(lines + more) + "\n", encoding="utf-8")
    # A random model writes no marker of several letters; this one it meets now and then.
    (folder / "letters.yaml").write_text(
        "name: letters\ninstruction: Think. Answer after an e.\nresponse_starts_after: [e, a, o]\n"
    )
    save_policy(folder / "policy", family)
    save_reward_model(folder / "judge", family)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
run: {folder}/run
model: {{path: {folder}/policy, dtype: float32}}
thought_format: {folder}/letters.yaml
iterations: 1
prompts_per_iteration: 16
prompts:
  train: [{{type: file, path: {folder}/prompts.jsonl, columns: {{category: kind}}}}]
  validation: {{count: 4}}
  test: {{count: 4}}
sampling: {{type: transformers, samples: 4, max_new_tokens: 24, part_size: 8}}
judge: {{type: reward_model, path: {folder}/judge, dtype: float32}}
pairs: {{rho: 0.2, max_unparsable: 0.5}}
training: {{epochs: 2, batch_size: 4, learning_rate: 1e-3, dtype: float32}}
launch: {{threads: 1}}
"""
    )
    return recipe


def run(recipe_path: Path, *overrides: str):
    recipe = load_recipe([str(recipe_path), *overrides])
    run_recipe(recipe, Reporter(Console(quiet=True)))
    return recipe
