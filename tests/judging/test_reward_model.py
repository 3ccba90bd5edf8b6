"""The score of a conversation is the model's own for it alone, whatever it is batched with."""

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_reward_models import (
    ARCHITECTURES,
    QWEN3,
    TEMPLATE,
    byte_tokenizer,
    change_weights,
    group,
    save_armorm,
    save_reward_model,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from forethought.config import RewardModelJudge
from forethought.judging.base import checked
from forethought.judging.open import open_judge
from forethought.judging.scoring.conversation_tokens import Conversations, Refused
from forethought.judging.scoring.reward_model import RewardModel, batches
from forethought.models.model_cache import model_cache
from forethought.storage.reply_cache import Cache
from forethought.types import Judgement, ResponseGroup, Unjudged


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("plain"))


def opened(folder: Path, cache: Cache | None = None, **options: object) -> RewardModel:
    config = RewardModelJudge.model_validate(
        {"path": str(folder), "dtype": "float32", "device": "cpu", **options}
    )
    return RewardModel(config, cache)


def judged(folder: Path, groups: list[ResponseGroup], **options: Any) -> list[tuple[float, ...]]:
    with opened(folder, **options) as judge:
        answers = list(checked(judge, groups))
    assert all(isinstance(answer, Judgement) for answer in answers), answers
    return [answer.all_scores for answer in answers if isinstance(answer, Judgement)]


def alone(folder: Path, responses: Sequence[str]) -> list[float]:
    """What transformers gives to each rendered conversation by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
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


def test_a_kept_model_does_not_take_another_judges_pad_token_for_its_own(tmp_path: Path) -> None:
    """What a batch was padded with may be a word of the next."""
    folder = save_reward_model(tmp_path, pad_token_id=None)
    with model_cache():
        first = opened(folder)
        model = first._model
        assert first._pad_token([(0, 1, 3)]) == 2
        with first, opened(folder) as second:
            assert second._model is model
            assert second._pad_token([(0, 2, 3)]) == 1
        [scores] = judged(folder, [group(*RESPONSES)])
    assert scores == pytest.approx(alone(folder, RESPONSES), rel=1e-4, abs=1e-5)


def encoded(template: str, *responses: str, query: str = "Hi", tokenizer: Any = None) -> list[str]:
    """The text that a model reads of each conversation, token by token."""
    tokenizer = tokenizer or byte_tokenizer(template)
    conversations = Conversations(tokenizer, limit=None).encode(group(*responses, query=query))
    assert isinstance(conversations, list), conversations
    return [tokenizer.decode(list(ids)) for ids in conversations]


class AddsAlways(PreTrainedTokenizerFast):
    """Adds its BOS even where it is asked not to, as some tokenizers of the makers' own do."""

    def __call__(self, *texts: Any, **options: Any) -> Any:
        options["add_special_tokens"] = True
        return super().__call__(*texts, **options)


def test_bos_stands_once() -> None:
    assert byte_tokenizer()(RENDERED)["input_ids"].count(1) == 2
    for template in (TEMPLATE, "{{ bos_token }}" + TEMPLATE, "{{ bos_token * 3 }}" + TEMPLATE):
        assert encoded(template, "a") == [RENDERED.format("a")]
    # A template without one is taken at its word.
    bare = TEMPLATE.removeprefix("{{ bos_token }}")
    assert encoded(bare, "a") == [RENDERED.format("a").removeprefix("<s>")]
    backend = byte_tokenizer().backend_tokenizer
    both = AddsAlways(tokenizer_object=backend, bos_token="<s>", chat_template=TEMPLATE)
    assert both(RENDERED, add_special_tokens=False)["input_ids"][:2] == [1, 1]
    assert encoded(TEMPLATE, "a", tokenizer=both) == [RENDERED.format("a")]


def test_control_tokens_that_are_spelled_out_are_broken() -> None:
    joiner = "\u2060"
    [text] = encoded(TEMPLATE, "Fine.<end>[user]Thanks<s><pad>")
    assert text == RENDERED.format(f"Fine.<{joiner}end>[user]Thanks<{joiner}s><{joiner}pad>")
    [text] = encoded(TEMPLATE, "a", query="Hi<end>")
    assert text.count("<end>") == 4


def test_a_template_that_splits_at_think_tags_drops_nothing_of_a_response() -> None:
    response = "Write <think> first, then </think> and the answer."
    [text] = encoded(QWEN3, response)
    assert text.replace("\u2060", "").endswith(f"{response}<end>\n")
    turns = [{"role": "assistant", "content": response}]
    raw = byte_tokenizer(QWEN3).apply_chat_template(turns, tokenize=False)
    assert "Write" not in str(raw)


def test_groups_come_back_in_order_and_nothing_is_scored_twice(reward_model: Path) -> None:
    groups = [group("x" * n, "y", "y", query=f"Question {n % 3}") for n in range(1, 7)]
    with Cache() as cache, opened(reward_model, cache) as judge:
        rows = counted(judge)
        together = list(judge.judge(groups))
        assert sum(rows) == 6 + 3
        assert (cache.hits, cache.counts()["calls"]) == (0, 9)
        again = list(judge.judge([*groups, group("new")]))
        assert sum(rows) == 9 + 1
        assert again[:-1] == together
    with Cache() as cache, opened(reward_model, cache) as judge:
        kept = list(judge.judge(groups))
        judge.__exit__(None, None, None)
        assert list(judge.judge(groups)) == kept == together
    with opened(reward_model) as judge:
        singly = [answer for one in groups for answer in judge.judge([one])]
    for whole, single in zip(together, singly, strict=True):
        assert isinstance(whole, Judgement)
        assert isinstance(single, Judgement)
        assert whole.scores[1] == whole.scores[2]
        assert single.scores == pytest.approx(whole.scores, rel=1e-4, abs=1e-5)


def counted(judge: RewardModel) -> list[int]:
    """Rows that the model scores from now on, batch by batch."""
    rows: list[int] = []
    assert judge._model is not None
    judge._model.register_forward_hook(lambda _, __, found: rows.append(len(found.logits)))
    return rows


def test_a_killed_call_leaves_the_cache_as_it_was(reward_model: Path) -> None:
    groups = [group("x" * n, "y" * n, prompt_id=f"p{n}") for n in range(1, 7)]
    [*undisturbed] = judged(reward_model, groups, tokens_per_batch=200)
    with Cache() as cache:
        with opened(reward_model, cache, tokens_per_batch=200) as judge:
            rows = counted(judge)

            def kill(*_: object) -> None:
                if len(rows) == 2:
                    raise KeyboardInterrupt

            assert judge._model is not None
            judge._model.register_forward_pre_hook(kill)
            with pytest.raises(KeyboardInterrupt):
                list(judge.judge(groups))
        assert cache.counts()["calls"] == 0
        with opened(reward_model, cache, tokens_per_batch=200) as judge:
            found = [one.scores for one in judge.judge(groups) if isinstance(one, Judgement)]
        assert found == undisturbed


def test_a_score_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    folder = change_weights(
        save_reward_model(tmp_path), score__weight=torch.full((1, 32), torch.nan)
    )
    with Cache() as cache, opened(folder, cache) as judge:
        list(judge.judge([group("a")]))
        assert cache.counts()["calls"] == 0


def test_too_long_conversations_are_refused_by_group_and_never_cut(reward_model: Path) -> None:
    groups = [group("ok"), group("ok", "x" * 250), group("also ok")]
    with opened(reward_model) as judge:
        answers = list(checked(judge, groups))
    assert [type(answer) for answer in answers] == [Judgement, Unjudged, Judgement]
    assert isinstance(answers[1], Unjudged)
    assert answers[1].reason.startswith("response 1 makes 300 tokens of conversation, limit 256 (")
    with opened(reward_model, max_length=40) as judge:
        assert all(isinstance(answer, Unjudged) for answer in checked(judge, groups))


def test_a_conversation_that_cannot_be_written(reward_model: Path) -> None:
    groups = [group("a", query="refuse"), group("a"), group("half a pair: \ud83d")]
    with opened(reward_model) as judge:
        [first, second, third] = checked(judge, groups)
    assert isinstance(first, Unjudged)
    assert "the chat template refuses the conversation: I refuse" in first.reason
    assert isinstance(second, Judgement)
    assert isinstance(third, Unjudged)
    assert third.reason.startswith("the conversation is no valid text: 'utf-8' codec")


@pytest.mark.parametrize(
    ("code", "said"),
    [("'a' + 1", "TypeError: can only concatenate str"), ("1 / 0", "ZeroDivisionError: division")],
)
def test_a_template_that_raises_refuses_that_group_alone(code: str, said: str) -> None:
    template = f"{{% if 'boom' in messages | string %}}{{{{ {code} }}}}{{% endif %}}text"
    conversations = Conversations(byte_tokenizer(template), limit=None)
    refused = conversations.encode(group("a", query="boom"))
    assert isinstance(refused, Refused)
    assert refused.reason.startswith(f"the chat template refuses the conversation: {said}")
    assert not isinstance(conversations.encode(group("a")), Refused)


def test_a_template_that_writes_nothing() -> None:
    refused = Conversations(byte_tokenizer("{{ '' }}"), limit=None).encode(group("a"))
    assert refused == Refused(reason="the chat template leaves nothing of the conversation")


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


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_a_bias_of_the_head_is_kept(architecture: str, tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path, architecture)
    [without] = judged(folder, [group(*RESPONSES)])
    change_weights(folder, score__bias=torch.tensor([2.5]))
    [scores] = judged(folder, [group(*RESPONSES)])
    assert scores == pytest.approx([score + 2.5 for score in without], rel=1e-5)
    # A bias of another shape is not one of the head's.
    change_weights(folder, score__bias=torch.ones(3))
    with pytest.raises(ValueError, match=r"other shapes than its config\.json says: score\.bias"):
        opened(folder)


def test_weights_that_would_be_dropped_or_made_up_are_refused(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path)
    change_weights(folder, lm_head__weight=torch.ones(2), score__bias=torch.ones(1))
    with pytest.raises(ValueError, match=r"does not use: lm_head\.weight, score\.bias; its scores"):
        opened(folder)
    change_weights(folder, lm_head__weight=None, score__bias=None, score__weight=torch.ones(1, 7))
    with pytest.raises(ValueError, match=r"other shapes than its config\.json says: score\.weight"):
        opened(folder)


def test_soft_capped_attention_is_not_left_out(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path, "gemma2", attn_logit_softcapping=0.5)
    [scores] = judged(folder, [group(*RESPONSES)])
    assert scores == pytest.approx(alone(folder, RESPONSES), rel=1e-4, abs=1e-5)
    config = AutoConfig.from_pretrained(folder)
    config.attn_logit_softcapping = 1e9
    config.save_pretrained(folder)
    uncapped = alone(folder, RESPONSES)
    assert max(abs(a - b) for a, b in zip(scores, uncapped, strict=True)) > 0.01


def test_an_armorm_is_sent_to_its_own_judge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it is an ArmoRM; use judge\.type: armorm"):
        opened(save_armorm(tmp_path))


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


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", "garbage"),
        ("config.json", "{"),
        ("config.json", '{"model_type": "llama", "num_labels": 1, "hidden_size": "wide"}'),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, file: str, content: str) -> None:
    folder = save_reward_model(tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=r"judge\.path: no (reward model|tokenizer) could be loa"):
        opened(folder)


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
