"""Judges of the microworld for tests: a reward model trained on the spot, and a chat model's part.

The reward model learns which of the seed's answers to a run's prompts are right. The chat model's
part is played by `compare`: it reads the judge's prompt as a model would, grades both answers, and
writes a verdict, so that a server process can stand for a large judge.
"""

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForSequenceClassification, LlamaConfig

from forethought.config import MicroworldPrompts, ModelConfig
from forethought.decoding.request import SamplingParams
from forethought.microworld.verifier import grade
from forethought.models import loading, rendering
from forethought.models.control_tokens import WORD_JOINER
from forethought.prompts import load_prompts
from forethought.sampling.base import one_prompt
from forethought.sampling.transformers import TransformersSampler
from forethought.thoughts import GENERIC
from forethought.types import Message, Prompt, SampleRequest

SHOWN = re.compile(
    r"\[User Question\]\n(.*?)\n\n\[The Start of Assistant A's Answer\]\n(.*?)\n"
    r"\[The End of Assistant A's Answer\]\n\n\[The Start of Assistant B's Answer\]\n(.*?)\n"
    r"\[The End of Assistant B's Answer\]",
    re.DOTALL,
)


def microworld_prompts(**counts: int) -> list[Prompt]:
    """So many prompts of each split, those that a run with the same counts has."""
    sources = [MicroworldPrompts(split=split, count=n) for split, n in counts.items()]  # pyright: ignore[reportArgumentType]
    return load_prompts(sources, lambda text: text).prompts


@cache
def known_prompts() -> dict[str, Prompt]:
    """Every prompt that a test's run may have, by its text."""
    prompts = microworld_prompts(train=2560, validation=200, test=500)
    return {prompt.messages[-1].content: prompt for prompt in prompts}


def correct(prompt: Prompt, response: str) -> float:
    """The microworld's grade."""
    assert prompt.category is not None
    assert prompt.reference is not None
    question = prompt.messages[-1].content
    return grade(question, prompt.category, prompt.reference, response)


def compare(messages: list[dict[str, str]]) -> str:
    """A judge model's reply under the Self-Taught Evaluator's prompt; it likes A where both are
    as good, as models do."""
    found = SHOWN.search(messages[-1]["content"].replace(WORD_JOINER, ""))
    assert found, messages[-1]["content"]
    question, first, second = found.groups()
    prompt = known_prompts()[question]
    better = "A" if correct(prompt, first) >= correct(prompt, second) else "B"
    return f"<think>\nMaybe [[B]]? Or [[A]]?\n</think>\nAssistant {better} is right. [[{better}]]"


def train_reward_model(folder: Path, prompts: list[Prompt], epochs: int = 8) -> Path:
    """A small sequence classifier that tells right answers to these prompts from wrong ones."""
    tokenizer = loading.load_tokenizer("microworld")
    rows = _labelled(prompts, tokenizer)
    policy: Any = loading.load_model("microworld", dtype="float32", device="cpu").config
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=policy.vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=loading.single_id(tokenizer.pad_token_id),
    )
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config).train()
    steps = epochs * -(-len(rows) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    order = random.Random(0)
    rows.sort(key=lambda row: len(row[0]))
    batches = [rows[start : start + 64] for start in range(0, len(rows), 64)]
    for _ in range(epochs):
        order.shuffle(batches)
        for batch in batches:
            width = max(len(ids) for ids, _ in batch)
            pad = tokenizer.pad_token_id
            ids_BT = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch])
            logits_B = model(input_ids=ids_BT, attention_mask=ids_BT != pad).logits[:, 0]
            loss = binary_cross_entropy_with_logits(
                logits_B, torch.tensor([label for _, label in batch])
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _labelled(prompts: list[Prompt], tokenizer: Any) -> list[tuple[list[int], float]]:
    """The seed's distinct answers after a thought as token ids, with their grades."""
    params = SamplingParams(temperature=1.0, top_p=1.0, max_new_tokens=96)
    labels: dict[tuple[int, ...], float] = {}
    with TransformersSampler.load(
        ModelConfig(path="microworld"), params=params, rows=1024
    ) as sampler:
        requests = [
            SampleRequest(
                prompt_id=prompt.prompt_id,
                messages=GENERIC.apply(prompt.messages),
                seeds=tuple(range(6)),
            )
            for prompt in prompts
        ]
        for prompt, result in zip(prompts, sampler.sample(requests), strict=True):
            for completion in one_prompt(result).completions:
                response = GENERIC.parse(completion.text, completion.finish_reason).response
                if response is not None:
                    ids = _conversation(prompt, response, tokenizer)
                    labels[tuple(ids)] = float(correct(prompt, response))
    return [(list(ids), label) for ids, label in labels.items()]


def _conversation(prompt: Prompt, response: str, tokenizer: Any) -> list[int]:
    turns = rendering.as_turns(
        tokenizer, (*prompt.messages, Message(role="assistant", content=response))
    )
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]
