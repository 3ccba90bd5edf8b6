"""The score of a conversation is the model's own for it alone, whatever it is batched with."""

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_reward_models import ARCHITECTURES, TEMPLATE, byte_tokenizer, save_reward_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from forethought.config import RewardModelJudge
from forethought.judging.base import checked, open_judge
from forethought.judging.reward_model import RewardModel, batches
from forethought.types import Judgement, Message, Prompt, ResponseGroup, Unjudged


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("plain"))


def group(*responses: str, query: str = "Hi", prompt_id: str = "p") -> ResponseGroup:
    prompt = Prompt(
        prompt_id=prompt_id,
        messages=(
            Message(role="user", content="First"),
            Message(role="assistant", content="Yes?"),
            Message(role="user", content=query),
        ),
        category=None,
        source="test",
        reference=None,
    )
    return ResponseGroup(prompt=prompt, responses=responses)


def opened(folder: Path, **options: object) -> RewardModel:
    config = RewardModelJudge.model_validate(
        {"path": str(folder), "dtype": "float32", "device": "cpu", **options}
    )
    return RewardModel(config)


def judged(folder: Path, groups: list[ResponseGroup], **options: object) -> list[tuple[float, ...]]:
    with opened(folder, **options) as judge:
        answers = list(checked(judge, groups))
    assert all(isinstance(answer, Judgement) for answer in answers), answers
    return [answer.scores for answer in answers if isinstance(answer, Judgement)]


def alone(folder: Path, responses: Sequence[str]) -> list[float]:
    """What transformers gives to each rendered conversation by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = byte_tokenizer()
    scores: list[float] = []
    for response in responses:
        text = RENDERED.format(response)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            scores.append(model(input_ids=ids).logits[0, 0].item())
    return scores


RESPONSES = ("a", "", "a rather longer answer", "🙂 שלום", "b" * 60)
RENDERED = "<s>[user]First<end>[assistant]Yes?<end>[user]Hi<end>[assistant]{}<end>"


@pytest.mark.parametrize("pad_token_id", [0, None])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_the_models_own_for_the_conversation_alone(
    architecture: str, pad_token_id: int | None, tmp_path: Path
) -> None:
    folder = save_reward_model(tmp_path, architecture, pad_token_id=pad_token_id)
    expected = alone(folder, RESPONSES)
    assert len({round(score, 3) for score in expected}) == len(RESPONSES)
    for tokens_per_batch in (300, 100_000):
        [scores] = judged(folder, [group(*RESPONSES)], tokens_per_batch=tokens_per_batch)
        assert scores == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_pad_token_that_ends_every_turn_is_scored_as_its_makers_did(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path, pad_token_id=2)
    [scores] = judged(folder, [group(*RESPONSES)])
    expected = alone(folder, RESPONSES)
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_undeclared_pad_token_is_one_that_the_batch_does_not_hold(tmp_path: Path) -> None:
    judge = opened(save_reward_model(tmp_path, pad_token_id=None))
    assert judge._model is not None
    assert judge._pad_token([(0, 1, 3), (2, 5)]) == 4
    assert judge._model.config.get_text_config().pad_token_id == 4
    assert judge._pad_token([(1, 0)]) == 2


def test_bos_stands_once(reward_model: Path) -> None:
    judge = opened(reward_model)
    conversation = judge._conversation(group("a"), "a")
    assert conversation.count(1) == 1
    assert byte_tokenizer()(RENDERED)["input_ids"].count(1) == 2


def test_groups_come_back_in_order_and_equal_responses_are_scored_once(
    reward_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = RewardModel._forward

    def counted(self: RewardModel, batch: list[tuple[int, ...]]) -> list[float]:
        rows.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(RewardModel, "_forward", counted)
    groups = [group("x" * n, "y", "y", query=f"Question {n % 3}") for n in range(1, 7)]
    with opened(reward_model) as judge:
        together = list(judge.judge(groups))
        assert sum(rows) == 6 + 3
        singly = [answer for one in groups for answer in judge.judge([one])]
    for whole, single in zip(together, singly, strict=True):
        assert isinstance(whole, Judgement)
        assert isinstance(single, Judgement)
        assert whole.scores[1] == whole.scores[2]
        assert single.scores == pytest.approx(whole.scores, rel=1e-4, abs=1e-5)


def test_too_long_conversations_are_refused_by_group_and_never_cut(reward_model: Path) -> None:
    groups = [group("ok"), group("ok", "x" * 250), group("also ok")]
    with opened(reward_model) as judge:
        answers = list(checked(judge, groups))
    assert [type(answer) for answer in answers] == [Judgement, Unjudged, Judgement]
    assert isinstance(answers[1], Unjudged)
    assert answers[1].reason.startswith("response 1 makes 300 tokens of conversation, limit 256 (")
    with opened(reward_model, max_length=40) as judge:
        assert all(isinstance(answer, Unjudged) for answer in checked(judge, groups))


def test_a_conversation_that_the_template_refuses(reward_model: Path) -> None:
    with opened(reward_model) as judge:
        [first, second] = checked(judge, [group("a", query="refuse"), group("a")])
    assert isinstance(first, Unjudged)
    assert "the chat template refuses the conversation: I refuse" in first.reason
    assert isinstance(second, Judgement)


def test_a_model_that_gives_nan_gives_no_number(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(folder)
    with opened(folder) as judge:
        [answer] = checked(judge, [group("a", "b")])
    assert isinstance(answer, Unjudged)
    assert answer.reason == "the score of response 0 is nan, no finite number"


def test_bfloat16_is_close_to_float32(reward_model: Path) -> None:
    exact, coarse = (
        judged(reward_model, [group(*RESPONSES)], dtype=dtype)[0]
        for dtype in ("float32", "bfloat16")
    )
    assert coarse == pytest.approx(exact, abs=0.3)


def test_leaving_frees_the_model(reward_model: Path) -> None:
    with opened(reward_model) as judge:
        weights = weakref.ref(next(iter(judge._model.parameters()))) if judge._model else None
    gc.collect()
    assert weights is not None
    assert weights() is None
    with pytest.raises(ValueError, match="open it again"):
        list(judge.judge([group("a")]))


def test_opened_by_its_config(reward_model: Path) -> None:
    config = RewardModelJudge(path=str(reward_model), device="cpu")
    with open_judge(config) as judge:
        assert (judge.name, judge.floor) == (f"reward_model:{reward_model}", None)
        assert list(judge.judge([])) == []


def test_models_that_are_no_reward_models_are_refused(tmp_path: Path) -> None:
    two = save_reward_model(tmp_path / "two", num_labels=2)
    with pytest.raises(ValueError, match=r"judge\.path.* it has 2 labels where a reward model"):
        opened(two)
    causal = tmp_path / "causal"
    save_reward_model(causal)
    config = AutoConfig.from_pretrained(causal)
    AutoModelForCausalLM.from_config(config).save_pretrained(causal)
    byte_tokenizer().save_pretrained(causal)
    with pytest.raises(ValueError, match=r"has no weights for score\.weight"):
        opened(causal)
    with pytest.raises(ValueError, match=r"judge\.path: no tokenizer could be loaded from"):
        opened(tmp_path / "nowhere")


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path)
    tokenizer = byte_tokenizer()
    assert tokenizer.chat_template == TEMPLATE
    tokenizer.chat_template = None
    for file in folder.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="has no chat template"):
        opened(folder)


def test_a_limit_beyond_the_model_is_refused(reward_model: Path) -> None:
    with pytest.raises(ValueError, match=r"judge\.max_length: 257 is beyond the 256 positions"):
        opened(reward_model, max_length=257)


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 100))
def test_batches_hold_everything_once_within_the_budget(lengths: list[int], budget: int) -> None:
    conversations = [(index,) * length for index, length in enumerate(lengths)]
    made = list(batches(conversations, budget))
    assert sorted(ids for batch in made for ids in batch) == sorted(conversations)
    for batch in made:
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= budget
