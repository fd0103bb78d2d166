"""What the figures, the buckets and the rounding of `hyla align` are."""

import math

import pytest
import torch

from hyla.align.figures import by_position, figures, parting, same_bits
from hyla.align.rounding import rounded
from hyla.train.rounding import round_by_chance


def fp32(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_the_figures_are_their_formulas():
    rollout, new = [-1.0, -2.0, -0.5], [-1.25, -2.0, -0.25]
    found = figures(fp32(*rollout), fp32(*new))
    ratios = [math.exp(b - a) for a, b in zip(rollout, new)]
    assert (found.tokens, found.equal, found.largest) == (3, 1, 0.25)
    assert found.mean == pytest.approx(0.5 / 3) and found.k1 == pytest.approx(0.0, abs=1e-12)
    assert found.k3 == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 3)
    assert (found.ratio_min, found.ratio_max) == pytest.approx((math.exp(-0.25), math.exp(0.25)))
    assert not found.is_exact and found.share_equal == pytest.approx(1 / 3)


def test_the_estimators_meet_the_divergence_of_two_known_distributions():
    """On as many tokens of each kind as the rollouts' distribution has."""
    p, q, count = (0.5, 0.25, 0.25), (0.25, 0.25, 0.5), 4
    tokens = [n for n, share in enumerate(p) for _ in range(round(share * count))]
    found = figures(fp32(*(math.log(p[n]) for n in tokens)), fp32(*(math.log(q[n]) for n in tokens)))
    divergence = sum(a * math.log(a / b) for a, b in zip(p, q))
    # k3 adds mean(ratio) - 1, which is 0 since both distributions have all of the tokens.
    assert found.k1 == pytest.approx(divergence, rel=1e-6) and found.k3 == pytest.approx(divergence, rel=1e-6)


def test_one_ulp_and_the_sign_of_zero_are_differences():
    one = fp32(-0.75)
    assert figures(one, one).is_exact and figures(one, one).ratio_max == 1.0
    assert not figures(one, torch.nextafter(one, fp32(0.0))).is_exact
    assert same_bits(fp32(0.0, 0.0), fp32(0.0, -0.0)).tolist() == [True, False]
    assert figures(fp32(), fp32()).tokens == 0


def test_buckets_double_and_have_every_token_once():
    positions = torch.tensor([0, 3, 4, 7, 8, 40])
    rollout = fp32(*[-1.0] * 6)
    found = by_position(positions, rollout, rollout - positions / 1024, 4)
    assert [(one.first, one.end, one.figures.tokens) for one in found] == [
        (0, 4, 2),
        (4, 8, 2),
        (8, 16, 1),
        (32, 64, 1),
    ]
    assert [one.figures.largest for one in found] == [3 / 1024, 7 / 1024, 8 / 1024, 40 / 1024]


def test_texts_part_at_the_first_other_token():
    assert parting([[1, 2], [1, 2], [], [4]], [[1, 3], [1, 2, 3], [], [5]]) == [1, 2, None, 0]


DTYPES = (torch.bfloat16, torch.float16)


def numbers(count=4000):
    """Of all sizes that matter, subnormal ones of fp16 and bf16 among them."""
    draw = torch.Generator().manual_seed(1)
    scales = torch.tensor([1.0, 1e-3, 1e-6, 3e-8, 1e-39, 1e3])
    return torch.randn(len(scales), count, generator=draw) * scales[:, None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_chance", [False, True])
def test_rounded_numbers_are_the_dtypes_own_and_stay(dtype, by_chance):
    generator = torch.Generator().manual_seed(2) if by_chance else None
    found = rounded(numbers(), dtype, generator)
    assert found.dtype == torch.float32 and same_bits(found.to(dtype).float(), found).all()
    assert same_bits(rounded(found, dtype, generator), found).all()
    assert not torch.equal(found, numbers())


@pytest.mark.parametrize("dtype", DTYPES)
def test_chance_chooses_between_the_two_neighbours_and_keeps_the_mean(dtype):
    # Between two normal numbers of both dtypes, and between two subnormal ones of fp16.
    for low, high in (
        (1.0, 1.0 + torch.finfo(dtype).eps),
        (0.0, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps),
    ):
        x = torch.full((40_000,), low + 0.25 * (high - low))
        found = rounded(x, dtype, torch.Generator().manual_seed(3))
        assert set(found.tolist()) == {low, high}
        assert float((found == high).double().mean()) == pytest.approx(0.25, abs=0.01)
        assert set(rounded(-x, dtype, torch.Generator().manual_seed(3)).tolist()) == {-low, -high}


def test_chance_is_that_of_the_optimizers_states_in_its_range():
    """Another formula, the same two neighbours."""
    x = numbers()[:4]
    ours = rounded(x, torch.bfloat16, torch.Generator().manual_seed(4))
    theirs = round_by_chance(x, torch.Generator().manual_seed(4)).float()
    nearest = rounded(x, torch.bfloat16)
    is_apart = (ours != theirs) & (ours != nearest) & (theirs != nearest)
    assert not is_apart.any() and bool((ours != nearest).any())


def test_what_is_not_finite_stays_and_what_is_too_large_becomes_infinite():
    x = fp32(math.inf, -math.inf, 70000.0, -70000.0)
    for generator in (None, torch.Generator().manual_seed(5)):
        assert rounded(x, torch.float16, generator).tolist() == [math.inf, -math.inf, math.inf, -math.inf]
        assert rounded(fp32(math.nan), torch.float16, generator).isnan().all()
