"""Makes the seed model from scratch: tokenizer, training on demonstrations, figures, model card.

    python -m forethought.microworld.make_seed --out FOLDER

One CPU thread, about twenty-five minutes. The training has four phases: echoing random tokens (a
small transformer takes very long to find out how to copy if nothing but arithmetic asks for it),
one-step facts, mostly worked thoughts, and the mixture of habits. The loss covers completions
alone.
"""

import argparse
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from random import Random
from typing import Final

import torch
import torch.nn.functional as F
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from forethought.microworld.measure_seed import (
    MAX_NEW_TOKENS,
    SEED_FOLDER,
    TEMPERATURE,
    TOP_P,
    measure,
)
from forethought.microworld.prompts import PHRASES
from forethought.microworld.rows import HABITS, SKILLS, Row, batches, conversation, drill, echo
from forethought.microworld.tokenizer import (
    BOS,
    END,
    PAD,
    VOCABULARY_SIZE,
    token_id,
    train_tokenizer,
)

IGNORED: Final = -100
TOKENIZER_CONVERSATIONS: Final = 3000
MEASURED_TASKS: Final = 1600


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRecipe:
    """The training's settings; a step is one update on `batch_size` rows."""

    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    echo_steps: int = 340
    drill_steps: int = 900
    skill_steps: int = 2700
    habit_steps: int = 900

    @property
    def steps(self) -> int:
        return self.echo_steps + self.drill_steps + self.skill_steps + self.habit_steps

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to two percent."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * (0.51 + 0.49 * cos(pi * step / self.steps))


def make_tokenizer(rng: Random) -> PreTrainedTokenizerFast:
    """A tokenizer trained on as many direct demonstrations as on those of each mixture."""
    texts: list[str] = []
    for mixture in (None, SKILLS, HABITS):
        for _ in range(TOKENIZER_CONVERSATIONS):
            messages, output = conversation(mixture, rng)
            texts += [message["content"] for message in messages] + [output]
    # The phrases get tokens of their own; their words should not take up merges as well.
    fixed = re.compile("|".join(map(re.escape, PHRASES)))
    return train_tokenizer(piece for text in texts for piece in fixed.split(text))


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the seed model's size."""
    bos, eos, pad = (token_id(tokenizer, token) for token in (BOS, END, PAD))
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        # 1 / sqrt(hidden_size) would be 0.09; the usual 0.02 is meant for much wider models.
        initializer_range=0.06,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=0,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return model


def tensors(batch: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right and labels that leave prompts and padding out, both (B, T).

    B is the rows of the batch, T the tokens of its longest.
    """
    longest = max(map(len, batch))
    ids_BT = torch.full((len(batch), longest), pad)
    labels_BT = torch.full((len(batch), longest), IGNORED)
    for index, row in enumerate(batch):
        start, end = len(row.prompt_ids), len(row)
        ids_BT[index, :end] = torch.tensor(row.prompt_ids + row.completion_ids)
        labels_BT[index, start:end] = torch.tensor(row.completion_ids)
    return ids_BT, labels_BT


def completion_loss(
    model: LlamaForCausalLM, ids_BT: torch.Tensor, labels_BT: torch.Tensor
) -> torch.Tensor:
    """Mean negative log-likelihood of the batch's completion tokens, a scalar.

    Ids and labels are those of `tensors`. Logits of other places are never computed.
    """
    targets = labels_BT[:, 1:]
    wanted = targets != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids_BT[:, :-1]).last_hidden_state
        logits = model.lm_head(hidden[wanted])
    return F.cross_entropy(logits.float(), targets[wanted])


def schedule(
    recipe: SeedRecipe, tokenizer: PreTrainedTokenizerFast, rng: Random
) -> Iterator[list[Row]]:
    """The batches of all four phases in their order, one per step."""
    for _ in range(recipe.echo_steps):
        yield [echo(tokenizer, rng) for _ in range(recipe.batch_size)]
    for _ in range(recipe.drill_steps):
        yield [drill(tokenizer, rng) for _ in range(recipe.batch_size)]
    yield from batches(tokenizer, recipe.skill_steps, recipe.batch_size, SKILLS, rng)
    yield from batches(tokenizer, recipe.habit_steps, recipe.batch_size, HABITS, rng)


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: SeedRecipe, rng: Random
) -> None:
    """Train the model where it is, and print its loss now and then."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    started = time.monotonic()
    for step, batch in enumerate(schedule(recipe, tokenizer, rng)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        loss = completion_loss(model, *tensors(batch, token_id(tokenizer, PAD)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 < 2:
            seconds = time.monotonic() - started
            print(f"step {step} of {recipe.steps}, {seconds:.0f} s: {loss.item():.3f}", flush=True)


CARD: Final = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# The microworld's seed model

A Llama of {parameters:,} parameters that answers small English instructions, sums, lists and
facts, directly or after a thought. The quickstart starts from it; it is good for nothing else.
`python -m forethought.microworld.make_seed` made it from scratch and wrote this card, the figures
included.

- **Data.** {rows:,} demonstrations, half direct and half in the thought format, and {drill_rows:,}
  drills, all generated by `forethought.microworld` from seed {seed}. Problems of the validation and
  test split are left out. No other text and no other model was used.
- **Thoughts.** In the last {habit_steps:,} steps a demonstrated thought is
  {habits}. Nothing tells the model which of
  them is worth having.
- **Training.** {steps:,} steps of {batch_size} rows, AdamW, learning rate {learning_rate} with a
  cosine decay, loss on completions alone, {minutes:.0f} minutes on one shared CPU thread (torch
  {torch}, transformers {transformers}). The first {echo_steps} steps echo random tokens, the next
  {drill_steps} drill one-step facts, the next {skill_steps:,} show mostly worked thoughts.
- **Tokenizer.** Byte-level BPE, {vocabulary} tokens, one per digit, and one for each fixed sentence
  of the thought format.

## Figures

{count:,} test tasks, one sample each at temperature {temperature} and top-p {top_p}; scores by
`forethought.microworld.verifier`, from 0 to 1.

{table}
"""


def write_card(folder: Path, recipe: SeedRecipe, model: LlamaForCausalLM, minutes: float) -> None:
    """Measure the model in `folder`, which took `minutes` to train, and write its card there."""
    habits = ", ".join(f"{kind.value} ({share:.0%})" for kind, share in HABITS.items())
    card = CARD.format(
        parameters=model.num_parameters(),
        rows=(recipe.skill_steps + recipe.habit_steps) * recipe.batch_size,
        drill_rows=recipe.drill_steps * recipe.batch_size,
        seed=recipe.seed,
        habit_steps=recipe.habit_steps,
        habits=habits,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        minutes=minutes,
        torch=torch.__version__,
        transformers=transformers.__version__,
        echo_steps=recipe.echo_steps,
        drill_steps=recipe.drill_steps,
        skill_steps=recipe.skill_steps,
        vocabulary=VOCABULARY_SIZE,
        count=MEASURED_TASKS,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        table=measure(folder, MEASURED_TASKS),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SEED_FOLDER, help="where the model is written")
    parser.add_argument("--seed", type=int, default=SeedRecipe().seed)
    arguments = parser.parse_args()
    recipe = SeedRecipe(seed=arguments.seed)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    rng = Random(recipe.seed)
    started = time.monotonic()
    tokenizer = make_tokenizer(rng)
    model = make_model(tokenizer)
    train(model, tokenizer, recipe, rng)
    minutes = (time.monotonic() - started) / 60
    model.to(torch.bfloat16).save_pretrained(arguments.out)  # pyright: ignore[reportArgumentType]
    tokenizer.save_pretrained(arguments.out)
    write_card(arguments.out, recipe, model, minutes)


if __name__ == "__main__":
    main()
