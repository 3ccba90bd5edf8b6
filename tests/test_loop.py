"""The loop on one page runs, learns, and fits on its page."""

import runpy
from pathlib import Path

import pytest

LOOP = Path(__file__).parent.parent / "examples" / "loop.py"


@pytest.mark.slow
def test_the_seed_learns_to_answer(tmp_path):
    seed, *_, last = runpy.run_path(str(LOOP))["loop"](tmp_path)
    assert 0.55 < seed < 0.65
    assert last > seed + 0.1


def test_it_is_one_page():
    assert len(LOOP.read_text(encoding="utf-8").splitlines()) <= 120
