"""New control tokens on a real model: before it is taught them it goes on writing words."""

import pytest
import torch

from forethought.models.loading import load_runnable, load_tokenizer
from forethought.models.marker_tokens import add_marker_tokens
from forethought.thoughts import TOKENS

pytestmark = pytest.mark.real
TEXTS = (
    "Here is my thought process:\nThe user asks for a reply.\n\nHere is my response:\nDear Anna, "
    "thank you for your response and for the thought you gave it.",
    "In response to your letter, I thought about it for a long time. The response of the crowd was "
    "loud, and the thought of it still makes me smile.",
)


def test_new_tokens_take_no_words_place(real_model):
    tokenizer = load_tokenizer(str(real_model))
    model = load_runnable(str(real_model), dtype="float32", device="cpu")
    ids = add_marker_tokens(model, tokenizer, TOKENS)
    assert len(ids) == 2
    with torch.inference_mode():
        for text in TEXTS:
            given = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            assert isinstance(given, torch.Tensor)
            shares = model(given).logits.softmax(-1)[0, :, ids].sum(-1)
            assert shares.max() < 0.005
