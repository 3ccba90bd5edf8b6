"""An exported policy is the run's, loads by itself, and its card says what the run found."""

import json
import shutil
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_run import small_run
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from forethought.export.folder import check_push, push
from forethought.export.policy import export_policy
from forethought.runs.policies import choose
from forethought.storage.sealed_stage import StageError, read_manifest
from forethought.thoughts import GENERIC, ThoughtFormat


def card_of(folder):
    """The front matter and the text of a card."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def snippet(folder, text):
    """The card's code, run on the exported folder; its variables."""
    code = text.split("```python\n")[1].split("```")[0]
    names = {}
    torch.manual_seed(3)
    exec(code.replace('folder = "."', f"folder = {str(folder)!r}"), names)
    return names


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    target = tmp_path_factory.mktemp("export") / "policy"
    assert export_policy(finished_run, target) == target
    return target


def test_the_weights_are_the_last_policys_and_load_by_themselves(finished_run, exported):
    selected = finished_run / "thought" / "iteration_1" / "selection" / "policy"
    ours, theirs = (load_file(one / "model.safetensors") for one in (exported, selected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (exported / "model.safetensors").stat().st_nlink == 1
    assert ThoughtFormat.model_validate_json((exported / "thought_format.json").read_text()) == (
        GENERIC
    )
    model, tokenizer = (
        one.from_pretrained(exported) for one in (AutoModelForCausalLM, AutoTokenizer)
    )
    assert tokenizer.chat_template
    settings = model.generation_config
    assert (settings.do_sample, settings.temperature, settings.top_p) == (True, 0.8, 0.95)
    assert (settings.top_k, settings.max_new_tokens) == (0, 48)
    assert tokenizer.eos_token_id in settings.eos_token_id


def test_the_card_holds_the_runs_own_figures(finished_run, exported):
    front, text = card_of(exported)
    assert front["pipeline_tag"] == "text-generation"
    assert front["library_name"] == "transformers"
    assert front["license"] == "apache-2.0"
    for arm in ("thought", "direct"):
        for policy in range(3):
            folder = finished_run / "evaluation" / arm / f"policy_{policy}"
            counts: dict[str, Any] = dict(read_manifest(folder).counts)
            (row,) = (
                line
                for line in text.replace("**", "").splitlines()
                if line.startswith(f"| {policy} | {arm} |")
            )
            low, high = counts["interval"]
            wanted = f"| {counts['test_score']:.3f} | [{low:.3f}, {high:.3f}] | {counts['count']} |"
            assert wanted in row
    assert "| **2** | **thought** | **" in text
    for number in range(2):
        folder = finished_run / "thought" / f"iteration_{number}"
        pairs = read_manifest(folder / "pairs")
        assert pairs.digest in text
        assert f"% | {pairs.counts['pairs']} | {pairs.counts['unparsable']} |" in text
    assert read_manifest(finished_run / "evaluation/thought/policy_2").digest in text
    assert "Thought arm minus direct arm at policy 2" in text
    assert str(finished_run.parent) not in text


def test_the_cards_code_gives_what_the_splitter_gives(exported):
    _, text = card_of(exported)
    names = snippet(exported, text)
    output = names["tokenizer"].decode(names["output"], skip_special_tokens=True)
    assert output
    assert names["response"] == GENERIC.parse(output).response
    for said in (
        "Here's my response: 3",
        "Here is my thought process: x Here's my response: 4 Here is my response: 5",
        "Here is my thought process: nothing more",
    ):
        behind = names["behind"]
        rest = behind(said, list(GENERIC.thought_starts_after))
        found = behind(rest, list(GENERIC.response_starts_after)).strip() or None
        assert found == GENERIC.parse(said).response


def test_the_direct_arm_has_no_word_of_thoughts_to_hide(finished_run, tmp_path):
    _, text = card_of(export_policy(finished_run, tmp_path / "direct", arm="direct", policy=1))
    assert "without thoughts" in text
    assert "comprehensive and detailed" not in text
    names = snippet(tmp_path / "direct", text)
    assert names["response"] == names["text"].strip()


def test_the_seed_can_be_exported_too(finished_run, tmp_path):
    front, text = card_of(export_policy(finished_run, tmp_path / "seed", policy=0))
    assert "The seed of a preference training run" in text
    assert "## Training" not in text
    assert "optimized for" not in text
    assert front["license"] == "apache-2.0"
    AutoModelForCausalLM.from_pretrained(tmp_path / "seed")


def test_best_is_the_best_trained_policy_and_says_it_was_selected(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for policy, score in ((0, 0.9), (1, 0.5), (2, 0.4)):
        path = run / "evaluation" / "thought" / f"policy_{policy}" / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["counts"]["test_score"] = score
        path.write_text(json.dumps(manifest))
    assert choose(run, arm="thought", which="best").index == 1
    assert choose(run, arm="thought", which="last").index == 2
    _, text = card_of(export_policy(run, tmp_path / "best", policy="best"))
    assert "picked from the run's policies **by its test score**" in text
    shutil.rmtree(run / "evaluation")
    with pytest.raises(ValueError, match=r"has a test score.*there: 1, 2"):
        choose(run, arm="thought", which="best")
    _, text = card_of(export_policy(run, tmp_path / "unmeasured", policy=2))
    assert "there is no figure of quality" in text


def test_what_was_measured_stands_in_the_card(finished_run, exported, tmp_path):
    folder = finished_run / "measures" / "probe" / "thought" / "policy_2"
    results: Any = read_manifest(folder).counts["results"]
    _, text = card_of(exported)
    assert "see the rows of `probe`" in text
    for result in results:
        low, high = result["interval"]
        row = f"| probe | {result['name']} | {result['value']:.3f} | [{low:.3f}, {high:.3f}] |"
        assert (row in text) == (result["category"] is None)
    _, text = card_of(export_policy(finished_run, tmp_path / "first", policy=1))
    assert "| probe |" not in text
    assert "depends on the thought was not measured" in text


def test_lora_is_merged_and_the_adapter_kept_on_demand(tmp_path):
    words = ["iterations=1", "arms=[thought]", "prompts.test=null", "training.lora={rank: 2}"]
    small_run(tmp_path / "run", *words, "evaluation.temperature=0", "selection.temperature=0")
    merged = export_policy(tmp_path / "run", tmp_path / "merged")
    assert not (merged / "adapter").exists()
    kept = export_policy(tmp_path / "run", tmp_path / "kept", keep_adapter=True)
    assert (kept / "adapter" / "adapter_model.safetensors").is_file()
    seed = AutoModelForCausalLM.from_pretrained("src/forethought/microworld/seed_model")
    changed = AutoModelForCausalLM.from_pretrained(merged)
    assert any(
        not torch.equal(a, b) for a, b in zip(seed.parameters(), changed.parameters(), strict=True)
    )
    assert "LoRA of rank 2, merged" in card_of(merged)[1]
    settings = GenerationConfig.from_pretrained(merged)
    assert not settings.do_sample


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "thought" / "iteration_1" / "selection" / "manifest.json").unlink()
    assert choose(run, arm="thought", which="last").index == 1
    with pytest.raises(ValueError, match=r"no policy 2 .*there: 0 \(the seed\), 1, of 2"):
        export_policy(run, tmp_path / "new", policy=2)
    (run / "thought" / "iteration_0" / "selection" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no trained policy yet"):
        export_policy(run, tmp_path / "new")
    with pytest.raises(ValueError, match="is not a run directory"):
        export_policy(tmp_path, tmp_path / "new")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists; name another folder"):
        export_policy(finished_run, tmp_path / "there")
    with pytest.raises(ValueError, match="is no folder; make it first"):
        export_policy(finished_run, tmp_path / "no" / "new")
    weights = run / "direct" / "iteration_1" / "selection" / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(StageError, match="does not match its seal"):
        export_policy(run, tmp_path / "new", arm="direct")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there"]


def test_pushing_needs_a_name_and_a_token_and_never_shows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="'name' is not a repository's name"):
        check_push("name")
    with pytest.raises(ValueError, match="there is no token"):
        check_push("someone/name")
    secret = "hf_" + "s" * 34
    monkeypatch.setenv("HF_TOKEN", secret)
    check_push("someone/name")
    with pytest.raises(ValueError, match=r"someone/name was not pushed") as error:
        push(tmp_path, "someone/name", kind="model")
    assert secret not in str(error.value)
