"""Ask a server of the real model, and transformers itself."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from forethought.thoughts import ThoughtFormat
from forethought.types import Message

NEW = 32
"""New tokens of a response, or of an answer of transformers."""
ROUNDING = 0.4
"""Nobody's bfloat16 changes the order of two logits that lie further apart: over 60 positions it
moved the difference of the first two by 0.1 on average and by 0.33 at most."""


@contextmanager
def served(*words: str) -> Iterator[str]:
    """`forethought serve` as a user starts it, on the CPU; its address, without `/v1`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "forethought.cli", "serve", *words, "--name", "real"],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        found = re.search(r"(http://\S+)/v1", line := child.stdout.readline())
        assert found, line
        yield found[1]
    finally:
        child.send_signal(signal.SIGTERM)
        ended = child.wait(60)
    assert ended == 0


def body(question: str) -> dict[str, Any]:
    return {
        "model": "real",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_completion_tokens": NEW,
    }


def ask(server: str, question: str) -> tuple[str, str]:
    """A greedy reply's text, and all that was said with it."""
    done = httpx.post(f"{server}/v1/chat/completions", json=body(question), timeout=120)
    assert done.status_code == 200, done.text
    return done.json()["choices"][0]["message"]["content"], done.text


def ask_streamed(server: str, question: str) -> tuple[str, str]:
    """The same of a reply that comes in pieces, put together."""
    text, said = "", ""
    given = body(question) | {"stream": True}
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=given, timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
                    said += "".join(map(str, choice["delta"].values()))
    return text, said


class Greedy:
    """transformers' own greedy answers, in float32.

    Example: `Greedy(folder).answer("What is a noun?", DIRECT)`
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def answer(self, question: str, thought_format: ThoughtFormat) -> tuple[str, float]:
        """The text, and by how much the nearest second choice of a token lay behind the first."""
        messages = thought_format.apply([Message(role="user", content=question)])
        prompt = self.tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        drawn = self.model.generate(
            **prompt,
            max_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        best_T2 = torch.cat(drawn.scores).topk(2).values
        new = drawn.sequences[0, prompt["input_ids"].shape[1] :]
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        return text, float((best_T2[:, 0] - best_T2[:, 1]).min())
