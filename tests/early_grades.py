"""Verifiers that note when they are called and what a run had written by then.

The folder of the notes is named by an environment variable, which Ray's workers inherit; in it the
file `run` names the run that is judged.
"""

import json
import os
import time
from pathlib import Path

from forethought.types import Prompt

FOLDER = "EARLY_GRADES"


def grade(prompt: Prompt, response: str) -> float:
    """Some number that depends on both; it takes its time where a file `slow` is."""
    note(prompt, response)
    time.sleep(0.02 * (Path(os.environ[FOLDER]) / "slow").exists())
    return len(response) + len(prompt.messages[-1].content) / 7


def deadly_grade(prompt: Prompt, response: str) -> float:
    """It ends its process."""
    (Path(os.environ[FOLDER]) / "dead").touch()
    os._exit(1)


def note(prompt: Prompt, response: str) -> None:
    folder = Path(os.environ[FOLDER])
    rollouts = Path((folder / "run").read_text()) / "thought/iteration_0/rollouts"
    call = {
        "time": time.time(),
        "key": [prompt.prompt_id, response],
        "parts": len(list(rollouts.glob("part_*.parquet"))),
        "sealed": (rollouts / "manifest.json").is_file(),
    }
    with (folder / f"calls_{os.getpid()}").open("a") as file:
        file.write(json.dumps(call) + "\n")
