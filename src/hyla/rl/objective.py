"""The policy's loss: PPO's clipped surrogate over learnt tokens, and a penalty for leaving a reference.

R counts the learnt tokens of a pass: those that the model drew itself. A step is the ordered sum over its passes, so
weights come from the counts of the whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple, get_args

import torch

from hyla.errors import ConfigError

Normalisation = Literal["token", "sequence", "constant"]


class PolicyLosses(NamedTuple):
    """Of one pass, float64 scalars. Only `total` has a gradient. Those of a step's passes add up, `ratio_min` and
    `ratio_max` apart."""

    total: torch.Tensor
    """loss + kl_weight kl."""
    loss: torch.Tensor
    kl: torch.Tensor
    """sum(w k3): the estimate of KL(new || reference), nats; 0 without a reference."""
    entropy: torch.Tensor
    """-ln p of the drawn tokens, over num_tokens: an estimate of the policy's entropy in nats a token while the samples
    are its own, drawn at temperature 1 from all tokens."""
    clipped: torch.Tensor
    """Tokens whose gradient the clipping took, over num_tokens."""
    ratio_mean: torch.Tensor
    """Sum of the ratios over num_tokens."""
    ratio_min: torch.Tensor
    """Infinity for a pass without learnt tokens."""
    ratio_max: torch.Tensor
    """Minus infinity for a pass without learnt tokens."""


@torch.no_grad()
def ratios(new_R: torch.Tensor, rollout_R: torch.Tensor) -> torch.Tensor:
    """exp(new - rollout) in float64 [R], without a gradient; exactly 1 where both have the same bits."""
    return (new_R.double() - rollout_R.double()).exp()


def policy_loss(
    new_R: torch.Tensor,
    rollout_R: torch.Tensor,
    advantages_R: torch.Tensor,
    weights_R: torch.Tensor,
    *,
    clip_low: float | None,
    clip_high: float | None,
    reference_R: torch.Tensor | None = None,
    kl_weight: float = 0.0,
    num_tokens: int | None = None,
) -> PolicyLosses:
    """The loss of a pass, in float64.

    ratio = exp(new - rollout)
    loss  = -sum(w min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A))    PPO, arXiv 1707.06347, eq. 7
    kl    = sum(w (exp(d) - d - 1)), d = reference - new                        k3; GRPO, arXiv 2402.03300, eq. 4
    total = loss + kl_weight kl

    Two bounds of different size are DAPO's (arXiv 2503.14476, eq. 8); None for a bound: no clipping on that side, so
    with both the importance-weighted policy gradient, which is A grad ln p where the ratio is 1. The ratio is exactly 1
    where new and rollout have the same bits.

    Args:
        new_R: ln p of the drawn tokens under the weights that are trained, any float dtype; has the gradient.
        rollout_R: the same under the weights that drew them. No gradient goes to this nor to the others.
        advantages_R, weights_R: of each token (`advantages`, `token_weights`).
        clip_low: 0 to 1. clip_high: at least 0. kl_weight: at least 0.
        reference_R: ln p under a model that stays as it is.
        num_tokens: learnt tokens of the whole step, which shares and means are over; None: this pass is all of it.
    Raises ConfigError for tensors of different shapes, bounds out of range, and a kl_weight without a reference.
    """
    _check(new_R, (rollout_R, advantages_R, weights_R, reference_R), clip_low, clip_high, kl_weight)
    new_R = new_R.double()
    advantages_R, weights_R = advantages_R.detach().double(), weights_R.detach().double()
    difference_R = new_R - rollout_R.detach().double()
    with torch.no_grad():
        ratio_R = ratios(new_R, rollout_R)
        low = 0.0 if clip_low is None else 1.0 - clip_low
        high = inf if clip_high is None else 1.0 + clip_high
        bound_R = ratio_R.clamp(low, high)
        is_clipped_R = bound_R * advantages_R < ratio_R * advantages_R
    # What is clipped is left out before the exponential: it has no gradient, not even 0 times infinity.
    open_R = difference_R.masked_fill(is_clipped_R, 0.0).exp()
    surrogate_R = torch.where(is_clipped_R, bound_R, open_R) * advantages_R
    loss = -(weights_R * surrogate_R).sum()
    kl = torch.zeros_like(loss) if reference_R is None else (weights_R * _k3(new_R, reference_R)).sum()
    total = loss + kl_weight * kl if kl_weight else loss
    count = max(num_tokens if num_tokens is not None else len(new_R), 1)
    return PolicyLosses(
        total=total,
        loss=loss.detach(),
        kl=kl.detach(),
        entropy=-new_R.detach().sum() / count,
        clipped=is_clipped_R.double().sum() / count,
        ratio_mean=ratio_R.sum() / count,
        ratio_min=ratio_R.min() if len(ratio_R) else ratio_R.new_tensor(inf),
        ratio_max=ratio_R.max() if len(ratio_R) else ratio_R.new_tensor(-inf),
    )


def _k3(new_R: torch.Tensor, reference_R: torch.Tensor) -> torch.Tensor:
    """Schulman's third estimator: never negative, and 0 where both are equal."""
    difference_R = reference_R.detach().double() - new_R
    return difference_R.expm1() - difference_R


def _check(
    new_R: torch.Tensor,
    others: Sequence[torch.Tensor | None],
    clip_low: float | None,
    clip_high: float | None,
    kl_weight: float,
) -> None:
    shapes = [tuple(one.shape) for one in (new_R, *others) if one is not None]
    if new_R.dim() != 1 or len(set(shapes)) > 1:
        raise ConfigError(f"a policy's loss takes one number a learnt token; the tensors have shapes {shapes}")
    if clip_low is not None and not 0.0 <= clip_low <= 1.0:
        raise ConfigError(f"clip_low = {clip_low} is not within 0 and 1; ratios are kept above 1 - clip_low")
    if clip_high is not None and not clip_high >= 0.0:
        raise ConfigError(f"clip_high = {clip_high} is below 0; ratios are kept below 1 + clip_high")
    if not kl_weight >= 0.0:
        raise ConfigError(f"kl_weight = {kl_weight} is below 0; 0 leaves the penalty out")
    if kl_weight and others[-1] is None:
        raise ConfigError(f"kl_weight = {kl_weight} needs the log-probabilities of a reference; give them, or 0")


def token_weights(
    lengths: Sequence[int], normalise: Normalisation, *, num_samples: int, num_tokens: int, max_tokens: int
) -> torch.Tensor:
    """The weight of each learnt token, float64 [sum(lengths)]; the loss is a sum weighted by them.

    token     1 / num_tokens: every token counts the same                     DAPO, arXiv 2503.14476, eq. 8
    sequence  1 / (num_samples length): every sample counts the same          GRPO, arXiv 2402.03300, eq. 3
    constant  1 / (num_samples max_tokens): no length changes another's part  Dr. GRPO, arXiv 2503.20783

    Args:
        lengths: learnt tokens of each sample of a pass, in order; 0 for one that has none.
        num_samples, num_tokens: samples that take part in the whole step, and their learnt tokens.
        max_tokens: most tokens that a sample could have had.
    Raises ConfigError for another kind, and for lengths beyond the counts.
    """
    if normalise not in get_args(Normalisation):
        raise ConfigError(f"normalise = {normalise!r} is unknown; choose one of {', '.join(get_args(Normalisation))}")
    if len(lengths) > num_samples or sum(lengths) > num_tokens or max(lengths, default=0) > max_tokens:
        raise ConfigError(
            f"{len(lengths)} samples of {sum(lengths)} tokens, at most {max(lengths, default=0)} each, are more than "
            f"the step's {num_samples}, {num_tokens} and {max_tokens}; give the counts of the whole step"
        )
    divisors = {
        "token": [num_tokens] * len(lengths),
        "sequence": [num_samples * length for length in lengths],
        "constant": [num_samples * max_tokens] * len(lengths),
    }[normalise]
    each = torch.tensor([1.0 / max(divisor, 1) for divisor in divisors], dtype=torch.float64)
    return each.repeat_interleave(torch.tensor(lengths, dtype=torch.long))
