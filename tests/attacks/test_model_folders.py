"""Folders of models that others made: their chat templates, and what lies beside the weights."""

import threading
import time
from functools import partial

import pytest
from tiny import save_policy
from typer.testing import CliRunner

from forethought.cli.main import app
from forethought.config import ModelConfig
from forethought.models import loading, rendering
from forethought.models.template_limits import TemplateTimeError, within_time
from forethought.types import Message

LOOPS = "{% for i in range(99999) %}" * 3 + "{{ i }}" + "{% endfor %}" * 3
CALLS = "{{ f(n - 1) }}{{ f(n - 1) }}"
MACRO = "{% macro f(n) %}{% if n %}" + CALLS + "{% endif %}{% endmacro %}{{ f(60) }}"
LATE = "did not end within 5 s"
FULL = "wants more than 2 GiB of memory"
ENDLESS = LOOPS.replace("{{ i }}", "")
TOO_LONG = "{{ 'a' * 10**10 }}"
TEMPLATES = {
    "nested loops": (ENDLESS, LATE),
    "product": (TOO_LONG, FULL),
    "center": ("{{ 'x'.center(3 * 10**9) }}", FULL),
    "power": ("{{ (10 ** (10 ** 9)) % 7 }}", LATE),
    "macros": (MACRO, LATE),
    "nested loops that write": (LOOPS, "makes more than 16 MiB of text"),
    "doubling": (
        "{% set s = namespace(a='x') %}{% for i in range(60) %}"
        "{% set s.a = s.a ~ s.a %}{% endfor %}{{ s.a | length }}",
        FULL,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("template", "said"), TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_without_end_is_refused_when_it_is_loaded(tmp_path, template, said):
    model = save_policy(tmp_path / "model")
    (model / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=said) as error:
        loading.load_tokenizer(str(model))
    assert str(error.value).startswith(f"model: {model}: its chat template {said}")


@pytest.mark.parametrize(("template", "why"), [(ENDLESS, LATE), (TOO_LONG, FULL)])
def test_serve_does_not_hang_at_its_start(tmp_path, template, why):
    model = save_policy(tmp_path / "model")
    (model / "chat_template.jinja").write_text(template)
    done = CliRunner().invoke(app, ["serve", str(model)])
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert f"{model}: its chat template {why}" in said
    assert "Traceback" not in said


def test_a_template_that_refuses_in_its_own_words_is_loaded(tmp_path):
    model = save_policy(tmp_path / "model")
    written = (model / "chat_template.jinja").read_text()
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (model / "chat_template.jinja").write_text(strict + written)
    tokenizer = loading.load_tokenizer(str(model))
    with pytest.raises(ValueError, match="no system"):
        rendering.render(tokenizer, [Message(role="system", content="x")])


def test_a_template_that_runs_on_later_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "within_time", partial(within_time, 0.3))
    model = save_policy(tmp_path / "model")
    written = (model / "chat_template.jinja").read_text()
    trap = "{% if messages[-1].content == 'now' %}" + ENDLESS + "{% endif %}"
    (model / "chat_template.jinja").write_text(trap + written)
    tokenizer = loading.load_tokenizer(str(model))
    found = []

    def ask():
        for text in ("now", "2 plus 3?", "now"):
            try:
                found.append(rendering.render_text(tokenizer, [Message(role="user", content=text)]))
            except ValueError as error:
                found.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("it did not end within 30 s" in each for each in found) == 6
    assert sum("2 plus 3?" in each for each in found) == 3


def test_who_was_in_time_is_never_ended():
    for _ in range(200):
        with within_time(0.01):
            pass
    time.sleep(0.05)
    with pytest.raises(TemplateTimeError):
        run_for_ever()
    assert sum(range(10**6)) > 0


@within_time(0.05)
def run_for_ever():
    while True:
        pass


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", "\xff"])
def test_template_variables_that_are_none_are_named(tmp_path, content):
    model = save_policy(tmp_path / "model")
    (model / "chat_template_variables.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"model: .*chat_template_variables\.json (is|must be)"):
        rendering.template_variables(ModelConfig(path=str(model)))
