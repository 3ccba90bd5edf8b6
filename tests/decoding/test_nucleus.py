import pytest
import torch

from forethought.decoding import nucleus


def draw_many(probs: list[float], top_p: float, *, count: int = 40_000) -> torch.Tensor:
    logits = torch.tensor(probs).log().expand(count, -1)
    keys = nucleus.keys(torch.arange(count))
    steps = torch.zeros(count, dtype=torch.int64)
    tokens = nucleus.draw(logits, keys, steps, temperature=1.0, top_p=top_p)
    return torch.bincount(tokens, minlength=len(probs)) / count


@pytest.mark.parametrize(
    ("probs", "top_p", "expected"),
    [
        ([0.1, 0.5, 0.25, 0.15], 1.0, [0.1, 0.5, 0.25, 0.15]),
        # 0.5 + 0.25 stand before 0.15, and 0.9 before 0.1.
        ([0.1, 0.5, 0.25, 0.15], 0.8, [0, 5 / 9, 2.5 / 9, 1.5 / 9]),
        # One token has more than top-p on its own.
        ([0.1, 0.7, 0.2], 0.6, [0, 1, 0]),
        # All ties at the border are in.
        ([0.25, 0.25, 0.25, 0.25], 0.1, [0.25, 0.25, 0.25, 0.25]),
        ([0.4, 0.2, 0.2, 0.2, 0.0], 0.5, [0.4, 0.2, 0.2, 0.2, 0]),
    ],
)
def test_draws_have_the_truncated_distribution(probs, top_p, expected):
    drawn = draw_many(probs, top_p)
    assert drawn == pytest.approx(expected, abs=0.01)
    assert all(share == 0 for share, p in zip(drawn.tolist(), expected, strict=True) if p == 0)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95])
def test_drawing_agrees_with_sorting(top_p):
    torch.manual_seed(0)
    probs = torch.randn(50).mul(2).softmax(-1)
    count = 60_000
    uniforms = nucleus.uniforms(torch.arange(count), torch.zeros(count, dtype=torch.int64), 0)
    by_sorting = nucleus.draw_sorted(probs.expand(count, -1), uniforms, top_p)
    expected = torch.bincount(by_sorting, minlength=50) / count
    drawn = draw_many(probs.tolist(), top_p, count=count)
    assert torch.equal(drawn > 0, expected > 0)
    assert (drawn - expected).abs().max() < 0.01


def test_a_row_that_is_never_accepted_is_sorted():
    # 1000 equal tokens behind one that is slightly likelier and alone in the nucleus.
    probs = [0.0011] + [0.9989 / 1000] * 1000
    assert draw_many(probs, 0.001, count=2000)[0] == 1


def test_temperature_and_greedy():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).expand(30_000, -1)
    keys, steps = nucleus.keys(torch.arange(30_000)), torch.zeros(30_000, dtype=torch.int64)
    drawn = nucleus.draw(logits, keys, steps, temperature=0.5, top_p=1.0)
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    assert shares.tolist() == pytest.approx(logits[0].div(0.5).softmax(-1).tolist(), abs=0.01)
    assert nucleus.draw(logits, keys, steps, temperature=0.0, top_p=0.5).unique().tolist() == [1]


def test_logits_are_not_changed():
    logits = torch.randn(4, 9)
    before = logits.clone()
    nucleus.draw(logits, torch.arange(4), torch.zeros(4).long(), temperature=0.7, top_p=0.9)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_an_error(temperature, bad):
    logits = torch.zeros(3, 5)
    logits[1, 2] = bad
    with pytest.raises(nucleus.LogitsNotFiniteError):
        nucleus.draw(
            logits, torch.arange(3), torch.zeros(3).long(), temperature=temperature, top_p=0.9
        )


def test_tokens_masked_with_minus_infinity_are_never_drawn():
    logits = torch.zeros(5000, 4)
    logits[:, 1] = -torch.inf
    drawn = nucleus.draw(
        logits, nucleus.keys(torch.arange(5000)), torch.zeros(5000).long(),
        temperature=1.0, top_p=1.0,
    )  # fmt: skip
    assert drawn.unique().tolist() == [0, 2, 3]


def test_uniforms_are_splitmix64_and_even():
    # The reference generator's first output for seed 0 is 0xE220A8397B1DCDAF; our counter starts
    # at 1 and the key is the seed's own state.
    zero = torch.zeros(1, dtype=torch.int64)
    assert float(nucleus.uniforms(zero, zero, 0)) == (0xE220A8397B1DCDAF >> 11) / 2**53
    keys = nucleus.keys(torch.arange(1000))
    many = torch.stack([nucleus.uniforms(keys, torch.full((1000,), t), 0) for t in range(50)])
    assert many.min() >= 0
    assert many.max() < 1
    assert float(many.mean()) == pytest.approx(0.5, abs=0.01)
    assert len(many.unique()) == many.numel()
    assert torch.corrcoef(many)[0, 1:].abs().max() < 0.15


def test_a_draw_depends_on_its_own_row_only():
    torch.manual_seed(1)
    logits, steps = torch.randn(40, 30), torch.arange(40)
    keys = nucleus.keys(torch.arange(40))
    whole = nucleus.draw(logits, keys, steps, temperature=0.9, top_p=0.6)
    for row in range(40):
        one = slice(row, row + 1)
        alone = nucleus.draw(logits[one], keys[one], steps[one], temperature=0.9, top_p=0.6)
        assert alone == whole[row]


@pytest.mark.parametrize("top_p", [0.02, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.7])
def test_drawing_each_row_its_own_way_is_drawing_it_alone(temperature, top_p):
    torch.manual_seed(0)
    logits, steps = torch.randn(60, 40) * 3, torch.arange(60)
    keys = nucleus.keys(torch.arange(60))
    temperatures, top_ps = torch.rand(60) * 2, torch.rand(60, dtype=torch.float64)
    temperatures[::2], top_ps[::2] = temperature, top_p
    together = nucleus.draw_each(logits, keys, steps, temperatures_R=temperatures, top_ps_R=top_ps)
    expected = nucleus.draw(logits, keys, steps, temperature=temperature, top_p=top_p)
    assert torch.equal(together[::2], expected[::2])


def test_a_row_without_a_distribution_spoils_no_other():
    logits = torch.randn(4, 9)
    logits[1, 3], logits[2, 0], logits[3] = torch.nan, torch.inf, -torch.inf
    ones = torch.ones(4)
    drawn = nucleus.draw_each(
        logits, nucleus.keys(torch.arange(4)), ones.long(),
        temperatures_R=ones, top_ps_R=ones.double(),
    )  # fmt: skip
    assert drawn[0] >= 0
    assert drawn[1:].tolist() == [nucleus.UNDRAWN] * 3
