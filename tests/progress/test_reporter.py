"""A stage shows how far it is inside a part of any size, and how outputs are drawn."""

import io
import re
import time

import pytest
from rich.console import Console
from tiny import save_tokenizer
from transformers import AutoModelForCausalLM, BloomConfig

from forethought.config import ModelConfig, TransformersEngine
from forethought.decoding.request import SamplingParams
from forethought.progress import reporter as progress
from forethought.progress import under_way
from forethought.progress.reporter import Reporter
from forethought.progress.under_way import Drawing, Tally, listening
from forethought.sampling.open import open_sampler
from forethought.sampling.vllm_bar import OutputsBar
from forethought.types import Message, SampleRequest

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_new_tokens=160)
INSIDE = re.compile(
    r"0/6 prompts .* ([\d,]+) tokens/s  under way (\d+)/48 outputs, ([\d,]+) tokens"
)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.02)
    monkeypatch.setattr(under_way, "SECOND", 0.0)


def sample(path: str, reporter: Reporter, prompts: int = 6, samples: int = 8) -> None:
    """One part, and nothing else."""
    requests = [
        SampleRequest(
            prompt_id=str(number),
            messages=(Message(role="user", content=f"What is {number} + 3 * 4 - 2?"),),
            seeds=tuple(range(samples)),
        )
        for number in range(prompts)
    ]
    model = ModelConfig(path=path, dtype="float32", device="cpu")
    with (
        reporter.task("thought iteration 1 rollouts", prompts, "prompts") as task,
        open_sampler(TransformersEngine(rows=16), model=model, params=PARAMS) as sampler,
    ):
        results = list(sampler.sample(requests))
        task.advance(len(results))


@pytest.mark.parametrize("terminal", [False, True])
def test_tokens_and_outputs_move_inside_a_part(terminal, often, tmp_path):
    shown = io.StringIO()
    reporter = Reporter(Console(file=shown, width=300, force_terminal=terminal))
    reporter.log_to(tmp_path / "log")
    sample("microworld", reporter)
    log = (tmp_path / "log").read_text()
    inside = INSIDE.findall(log)
    drawn = [int(tokens.replace(",", "")) for _, _, tokens in inside]
    ended = [int(outputs) for _, outputs, _ in inside]
    assert len(set(drawn)) > 3
    assert len(set(ended)) > 1
    assert (drawn, ended) == (sorted(drawn), sorted(ended))
    assert log.count("sampling the fast way") == 1
    assert "6/6 prompts" in log.splitlines()[-1]
    if not terminal:
        assert INSIDE.findall(shown.getvalue()) == inside


def test_a_bar_moves_inside_a_part():
    """The bar redraws itself: each word of an engine is awaited there before the next is said."""
    shown = io.StringIO()
    reporter = Reporter(Console(file=shown, width=300, force_terminal=True))
    with reporter.task("rollouts", 6, "prompts"):
        tally = Tally("the fast decoder", prompts=6, outputs=48)
        for done in (0, 15, 31):
            tally.tell(done=done, tokens=10 * done)
            expected = f"{done * 6 / 48:.0f}/6 prompts  "
            until = time.monotonic() + 60
            while not re.search(rf"{expected}.*under way {done}/48 outputs", shown.getvalue()):
                assert time.monotonic() < until, shown.getvalue()
                time.sleep(0.01)


def test_the_slow_way_is_said_at_the_start_with_its_cost(often, tmp_path, caplog):
    save_tokenizer(tmp_path, "llama")
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    shown = io.StringIO()
    sample(str(tmp_path), Reporter(Console(file=shown, width=300)), prompts=2, samples=2)
    first = next(line for line in shown.getvalue().splitlines() if "prompts  " not in line)
    assert first.startswith("sampling the slow way, several times slower than the fast one: it ")
    assert "own copy of the prompt's cache" in first
    assert not caplog.text


def test_a_stage_that_stands_still_says_so(often):
    shown = io.StringIO()
    with Reporter(Console(file=shown, width=300)).task("seed", 3, "steps"):
        time.sleep(0.3)
    lines = shown.getvalue().splitlines()
    assert len(lines) > 3
    assert all("0/3 steps" in line for line in lines)


def test_workers_add_up_and_what_is_done_counts_once():
    task = progress.Task("rollouts", 20, "prompts")

    def drawing(done: int, tokens: int) -> Drawing:
        return Drawing(how="", prompts=10, outputs=40, done=done, tokens=tokens)

    task.hear("a", drawing(10, 100))
    task.hear("b", drawing(20, 300))
    assert task.reached == pytest.approx(7.5)
    assert "under way 30/80 outputs, 400 tokens" in task.line()
    task.hear("a", drawing(40, 500))
    task.advance(10, tokens=500)
    assert task.reached == pytest.approx(15)
    assert "under way 20/40 outputs, 300 tokens" in task.line()
    task.hear("b", drawing(40, 700))
    task.advance(10, tokens=700)
    assert "under way" not in task.line()
    assert task.reached == 20


def test_nobody_needs_to_listen():
    tally = Tally("", prompts=1, outputs=1)
    tally.tell(done=1, tokens=1)
    assert not tally.due


def test_vllm_is_given_a_bar_that_tells(capsys):
    heard: list[Drawing] = []
    with listening(lambda who, drawing: heard.append(drawing)):
        assert list(OutputsBar(["a", "b"], desc="Adding requests")) == ["a", "b"]
        assert not heard
        bar = OutputsBar(total=3, desc="Processed prompts", dynamic_ncols=True, postfix="…")
        for _ in range(3):
            bar.postfix = f"{bar.format_dict['elapsed']}"
            bar.update(1)
        bar.refresh()
        bar.close()
    assert (heard[0].done, heard[-1].done, heard[-1].outputs) == (0, 3, 3)
    assert capsys.readouterr() == ("", "")
