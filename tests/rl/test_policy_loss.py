"""The policy's loss: values and gradients of the plain formula, clipping, passes, weights."""

import math

import pytest
import torch

from hyla.errors import ConfigError
from hyla.rl.objective import policy_loss, token_weights

BOTH = {"clip_low": 0.2, "clip_high": 0.3}
OPEN = {"clip_low": None, "clip_high": None}


def tokens(count=13, seed=0):
    """new (with gradient), rollout, advantages, weights, reference."""
    generator = torch.Generator().manual_seed(seed)

    def draw(scale=1.0):
        return scale * torch.randn(count, generator=generator, dtype=torch.float64)

    rollout = -draw().abs() - 0.01
    new = (rollout + draw(0.4)).requires_grad_()
    return new, rollout, draw(), draw().abs(), rollout + draw(0.3)


def plain(new, rollout, advantages, weights, reference, *, low, high, kl_weight):
    """The formulas as they are written."""
    ratio = (new - rollout).exp()
    clipped = torch.clamp(ratio, low, high)
    loss = -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()
    kl = (weights * ((reference - new).exp() - (reference - new) - 1)).sum()
    return loss, kl, loss + kl_weight * kl


@pytest.mark.parametrize("kl_weight", [0.0, 0.37])
@pytest.mark.parametrize("clip", [BOTH, OPEN, {**BOTH, "clip_high": None}, {**BOTH, "clip_low": None}])
def test_values_and_gradients_are_those_of_the_plain_formula(clip, kl_weight):
    new, rollout, advantages, weights, reference = tokens()
    low = 0.0 if clip["clip_low"] is None else 1 - clip["clip_low"]
    high = math.inf if clip["clip_high"] is None else 1 + clip["clip_high"]
    loss, kl, total = plain(new, rollout, advantages, weights, reference, low=low, high=high, kl_weight=kl_weight)
    (wanted,) = torch.autograd.grad(total, new)
    losses = policy_loss(new, rollout, advantages, weights, **clip, reference_R=reference, kl_weight=kl_weight)
    (found,) = torch.autograd.grad(losses.total, new)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(
        torch.stack([losses.total.detach(), losses.loss, losses.kl]),
        torch.stack([total, loss, kl]).detach(),
        rtol=1e-13,
        atol=1e-15,
    )
    ratio = (new - rollout).exp().detach()
    assert losses.ratio_min == ratio.min() and losses.ratio_max == ratio.max()
    assert losses.ratio_mean == pytest.approx(ratio.mean().item(), rel=1e-14)
    assert losses.entropy == pytest.approx(-new.mean().item(), rel=1e-14)
    assert not any(one.requires_grad for one in losses[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_new_and_rollout_have_the_same_bits_the_ratio_is_1_and_the_gradient_the_policys(dtype):
    rollout = tokens()[1].to(dtype)
    new = rollout.clone().requires_grad_()
    advantages, weights = tokens()[2], torch.full((13,), 0.5, dtype=torch.float64)
    for clip in (BOTH, OPEN, {"clip_low": 0.0, "clip_high": 0.0}):
        losses = policy_loss(new, rollout, advantages, weights, **clip, reference_R=rollout, kl_weight=1.0)
        assert losses.ratio_min == 1.0 == losses.ratio_max and losses.ratio_mean == 1.0
        assert losses.kl == 0.0 and losses.clipped == 0.0
        (gradient,) = torch.autograd.grad(losses.total, new)
        assert torch.equal(gradient, (-0.5 * advantages).to(dtype))  # -w A: that of ln p is 1, that of k3 is 0


@pytest.mark.parametrize(
    "ratio, advantage, surrogate, slope",
    [
        (1.5, 2.0, 2.6, 0.0),  # better and likelier already: no more
        (1.5, -2.0, -3.0, -3.0),  # worse and likelier: pulled back, however far
        (0.5, 2.0, 1.0, 1.0),
        (0.5, -2.0, -1.6, 0.0),
        (1.1, 2.0, 2.2, 2.2),
        (0.9, -2.0, -1.8, -1.8),
    ],
)
def test_clipping_on_both_sides_for_both_signs(ratio, advantage, surrogate, slope):
    rollout = torch.tensor([-1.25], dtype=torch.float64)
    new = (rollout + math.log(ratio)).requires_grad_()
    losses = policy_loss(new, rollout, torch.tensor([advantage]), torch.tensor([0.25]), **BOTH)
    (gradient,) = torch.autograd.grad(losses.total, new)
    assert losses.loss.item() == pytest.approx(-0.25 * surrogate, rel=1e-14)
    assert gradient.item() == pytest.approx(-0.25 * slope, rel=1e-14)
    assert losses.clipped == (1.0 if slope == 0.0 else 0.0)


def test_a_token_that_became_a_sure_thing_has_no_gradient_and_no_nan():
    new = torch.tensor([-0.5, -0.5], dtype=torch.float64, requires_grad=True)
    rollout = torch.tensor([-1000.0, -0.5], dtype=torch.float64)
    losses = policy_loss(new, rollout, torch.ones(2), torch.ones(2), **BOTH)
    (gradient,) = torch.autograd.grad(losses.total, new)
    assert gradient.tolist() == [0.0, -1.0] and losses.loss == -2.3


@pytest.mark.parametrize("normalise", ["token", "sequence", "constant"])
def test_two_passes_have_the_gradients_of_one_and_their_sums(normalise):
    lengths, first = [4, 0, 3, 6], 2  # samples of the first pass
    counts = {"num_samples": 4, "num_tokens": 13, "max_tokens": 8}
    new, rollout, advantages, _, reference = tokens()
    options = {**BOTH, "kl_weight": 0.1, "num_tokens": 13}

    def part(where, lengths):
        weights = token_weights(lengths, normalise, **counts)
        return policy_loss(
            new[where], rollout[where], advantages[where], weights, reference_R=reference[where], **options
        )

    whole = part(slice(0, 13), lengths)
    passes = [part(slice(0, 4), lengths[:first]), part(slice(4, 13), lengths[first:])]
    (wanted,) = torch.autograd.grad(whole.total, new)
    found = sum(torch.autograd.grad(losses.total, new)[0] for losses in passes)
    assert torch.equal(found, wanted)
    for name in ("total", "loss", "kl", "entropy", "clipped", "ratio_mean"):
        sums = sum(getattr(losses, name).item() for losses in passes)
        assert sums == pytest.approx(getattr(whole, name).item(), rel=1e-14), name
    assert min(losses.ratio_min for losses in passes) == whole.ratio_min
    assert max(losses.ratio_max for losses in passes) == whole.ratio_max


def test_a_pass_without_learnt_tokens_adds_nothing():
    none = torch.empty(0, dtype=torch.float64, requires_grad=True)
    losses = policy_loss(none, none, none, none, **BOTH)
    losses.total.backward()
    assert [one.item() for one in losses] == [0, 0, 0, 0, 0, 0, math.inf, -math.inf]


def test_weights_of_each_kind():
    counts = {"num_samples": 5, "num_tokens": 16, "max_tokens": 8}
    assert token_weights([2, 0, 4], "token", **counts).tolist() == [1 / 16] * 6
    assert token_weights([2, 0, 4], "sequence", **counts).tolist() == [1 / 10] * 2 + [1 / 20] * 4
    assert token_weights([2, 0, 4], "constant", **counts).tolist() == [1 / 40] * 6
    assert token_weights([], "token", **counts).shape == (0,)
    assert token_weights([2], "token", **counts).dtype == torch.float64


def test_weights_of_a_step_add_up_to_one_and_every_sample_has_its_part():
    lengths = [3, 5, 8]
    counts = {"num_samples": 3, "num_tokens": 16, "max_tokens": 8}
    for normalise in ("token", "sequence"):
        assert token_weights(lengths, normalise, **counts).sum().item() == pytest.approx(1.0, rel=1e-15)
    parts = token_weights(lengths, "sequence", **counts).split(lengths)
    assert [part.sum().item() for part in parts] == pytest.approx([1 / 3] * 3, rel=1e-15)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"clip_low": 1.5}, "clip_low = 1.5 is not within 0 and 1"),
        ({"clip_high": -0.1}, "clip_high = -0.1 is below 0"),
        ({"kl_weight": math.nan}, "kl_weight = nan is below 0"),
        ({"kl_weight": 0.1}, "needs the log-probabilities of a reference"),
        ({"reference_R": torch.zeros(12)}, r"shapes \[\(13,\), \(13,\), \(13,\), \(13,\), \(12,\)\]"),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    new, rollout, advantages, weights, _ = tokens()
    with pytest.raises(ConfigError, match=message):
        policy_loss(new, rollout, advantages, weights, **{**BOTH, **changes})


def test_weights_that_cannot_be_are_named():
    counts = {"num_samples": 2, "num_tokens": 9, "max_tokens": 5}
    with pytest.raises(ConfigError, match="normalise = 'mean' is unknown; choose one of token, sequence, constant"):
        token_weights([1], "mean", **counts)
    for lengths in ([1, 1, 1], [5, 5], [6]):
        with pytest.raises(ConfigError, match="give the counts of the whole step"):
            token_weights(lengths, "token", **counts)
