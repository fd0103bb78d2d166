"""Log-probabilities of tokens: the one formula of the engine's answers, of scores and of training.

For a row of logits x and a temperature t, with y = x / t:

    ln p(token) = (y[token] - m) - ln(sum_v e^(y_v - m)),    m = max_v y_v

Everything is fp32 (float64 for float64 logits). t is rounded to that dtype first, and each logit is divided by it once,
not multiplied by a reciprocal; at t = 1 nothing is divided. The sum has one order, the row's own, whatever stands
beside it: the CPU kernel's, or that of `sum_last` on the other backends. Cross-entropy is minus this number, bit for
bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from hyla.errors import ConfigError
from hyla.ops.backends import choose
from hyla.ops.exact import gradients, rows
from hyla.ops.exact.cross_entropy import chunk_loss, logits_of
from hyla.ops.exact.primitives import OPERATOR, exp, wide
from hyla.ops.exact.sums import sum_last
from hyla.ops.exact.temperatures import LEAST_TEMPERATURE, MOST_TEMPERATURE


class LogSums(NamedTuple):
    """What all log-probabilities of a row have in common."""

    most_R: torch.Tensor
    """The largest logit after temperature."""
    log_sums_R: torch.Tensor
    """ln of the sum of e^(logit - largest), after temperature."""


def check_temperature(temperature: float) -> None:
    """Raises ConfigError for what logits are not divided by, 0 among it."""
    if not LEAST_TEMPERATURE <= temperature <= MOST_TEMPERATURE:
        raise ConfigError(
            f"temperature = {temperature} has no log-probabilities: give one from {LEAST_TEMPERATURE:g} to "
            f"{MOST_TEMPERATURE:g} (at 0 the likeliest token is taken, and nothing is drawn)"
        )


def tempered(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits divided by a temperature in their dtype; themselves at 1."""
    check_temperature(temperature)
    if temperature == 1.0:
        return logits
    # A tensor on the logits' device: some devices multiply by the reciprocal of a number.
    return logits / torch.full((), temperature, dtype=logits.dtype, device=logits.device)


@torch.no_grad()
def log_sums(logits_RV: torch.Tensor, temperature: float = 1.0) -> LogSums:
    """Of each row of logits [R, V], which stay as they are; [R] each, fp32 (float64 for float64), no gradient."""
    logits_RV = tempered(wide(logits_RV), temperature)
    most_R, sums_R = choose(OPERATOR, logits_RV).row_sums(logits_RV)
    return LogSums(most_R, sums_R.log())


@torch.no_grad()
def of_tokens(
    logits_RV: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0, *, sums: LogSums | None = None
) -> torch.Tensor:
    """ln p of each row's tokens, int64 [R] or [R, K], under the softmax of logits / temperature; nats, <= 0.

    In tokens' shape, fp32 (float64 for float64 logits), without a gradient; logits stay as they are. A number depends
    on its row and token alone. sums: `log_sums` of these very logits and temperature, where they are known already.
    Raises ConfigError for a temperature that `check_temperature` refuses.
    """
    most_R, log_sums_R = log_sums(logits_RV, temperature) if sums is None else sums
    tokens_RK = tokens if tokens.ndim == 2 else tokens[:, None]
    picked_RK = tempered(wide(logits_RV.gather(1, tokens_RK)), temperature)
    return (picked_RK - most_R[:, None] - log_sums_R[:, None]).view(tokens.shape)


def _entropy(logits_RV: torch.Tensor, temperature: float, sums: LogSums) -> torch.Tensor:
    """- sum p ln p of each row after temperature, [R]; a token that is impossible adds nothing."""
    logprobs_RV = tempered(logits_RV, temperature) - sums.most_R[:, None] - sums.log_sums_R[:, None]
    terms_RV = exp(logprobs_RV) * logprobs_RV
    return -sum_last(terms_RV.masked_fill_(logprobs_RV == -torch.inf, 0.0))[:, 0]


class _ChunkedLogProbs(torch.autograd.Function):
    """Makes the logits of each chunk once more in the backward pass, when the rows' weights are known."""

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, targets_T, chunk_rows, temperature, wants_entropy):
        ctx.save_for_backward(hidden_TD, weight_VD, targets_T)
        ctx.chunk_rows, ctx.temperature = chunk_rows, temperature
        check_temperature(temperature)
        dtype = torch.promote_types(hidden_TD.dtype, torch.float32)
        logprobs_T = torch.empty(targets_T.shape, dtype=dtype, device=hidden_TD.device)
        entropy_T = torch.empty_like(logprobs_T) if wants_entropy else None
        for first in range(0, hidden_TD.shape[0], chunk_rows):
            chunk = slice(first, first + chunk_rows)
            logits_RV = logits_of(hidden_TD[chunk], weight_VD)
            sums = log_sums(logits_RV, temperature)
            logprobs_T[chunk] = of_tokens(logits_RV, targets_T[chunk], temperature, sums=sums)
            if entropy_T is not None:
                entropy_T[chunk] = _entropy(logits_RV, temperature, sums)
        if entropy_T is not None:
            ctx.mark_non_differentiable(entropy_T)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx, grad_T, _):
        hidden_TD, weight_VD, targets_T = ctx.saved_tensors
        wide_VD = weight_VD.to(grad_T.dtype)
        grad_hidden_TD = torch.empty_like(hidden_TD, dtype=grad_T.dtype)
        grad_weight_VD = None
        for first in range(0, hidden_TD.shape[0], ctx.chunk_rows):
            chunk = slice(first, first + ctx.chunk_rows)
            hidden_RD, targets_R = hidden_TD[chunk], targets_T[chunk]
            _, grad_RV = chunk_loss(tempered(logits_of(hidden_RD, weight_VD), ctx.temperature), targets_R)
            grad_RV[torch.arange(targets_R.shape[0], device=targets_R.device), targets_R] -= 1.0
            grad_RV *= -tempered(grad_T[chunk, None], ctx.temperature)
            grad_hidden_TD[chunk] = rows.input_gradient(grad_RV, wide_VD)
            if ctx.needs_input_grad[1]:
                wide_RD = hidden_RD.to(wide_VD.dtype)
                grad_weight_VD = gradients.add_weight_gradient(grad_weight_VD, grad_RV, wide_RD)
        if grad_weight_VD is None and ctx.needs_input_grad[1]:  # there are no rows
            grad_weight_VD = torch.zeros_like(wide_VD)
        of_weight = None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype).contiguous()
        return grad_hidden_TD.to(hidden_TD.dtype), of_weight, None, None, None, None


def token_logprobs(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    chunk_rows: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """ln p of targets int64 [T] under the softmax of hidden W^T / temperature; [T], nats, <= 0.

    Bit for bit `of_tokens` of `cross_entropy.logits_of(hidden_TD, weight_VD)`, whatever chunk_rows. Differentiable in
    hidden_TD and weight_VD, both of one dtype; the result is fp32 at least. Peak memory: chunk_rows rows of the
    vocabulary, twice at a temperature other than 1. Raises ConfigError for a temperature that `check_temperature`
    refuses.
    """
    return _ChunkedLogProbs.apply(hidden_TD, weight_VD, targets_T, chunk_rows, temperature, False)[0]


def token_logprobs_and_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    chunk_rows: int,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(`token_logprobs`, the entropy of the same distributions in nats); [T] each, the entropy without a gradient.

    Peak memory: chunk_rows rows of the vocabulary, four times.
    """
    return _ChunkedLogProbs.apply(hidden_TD, weight_VD, targets_T, chunk_rows, temperature, True)
