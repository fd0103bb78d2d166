"""Next-token cross-entropy in row chunks: logits of the whole batch never live at once."""

from __future__ import annotations

import torch

from hyla.ops.backends import choose
from hyla.ops.exact import gradients, rows
from hyla.ops.exact.primitives import OPERATOR


def chunk_loss(
    logits_RV: torch.Tensor, targets_R: torch.Tensor, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's cross-entropy in nats [R], and the probabilities [R, V]. Overwrites dense logits_RV.

    scale: give the gradient of so many times the losses' sum instead of the probabilities.
    """
    return choose(OPERATOR, logits_RV).chunk_loss(logits_RV, targets_R, scale)


def logits_of(hidden_RD: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    """The head's logits, in fp32 at least, with the same bits as `layers.head.Head.logits`; without a gradient."""
    if hidden_RD.dtype == torch.bfloat16 and weight_VD.dtype == torch.bfloat16:
        return rows.linear_widened(hidden_RD.detach(), weight_VD.detach())
    wide = torch.promote_types(hidden_RD.dtype, torch.float32)
    return rows.linear(hidden_RD.detach().to(wide), weight_VD.detach().to(wide))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Takes the gradient of each chunk right after its loss, so that nothing of size [T, vocab] is kept."""

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, targets_T, chunk_rows, denominator, z_weight):
        total = torch.zeros((), dtype=torch.float64, device=hidden_TD.device)
        z_total = torch.zeros_like(total)
        wide_VD = weight_VD.to(torch.promote_types(weight_VD.dtype, torch.float32))
        grad_hidden_TD = torch.empty(hidden_TD.shape, dtype=wide_VD.dtype, device=hidden_TD.device)
        # A frozen head, which is as large as the vocabulary, has no gradient to compute or to hold.
        grad_weight_VD = None
        scale = 1.0 / denominator
        for first in range(0, hidden_TD.shape[0], chunk_rows):
            chunk = slice(first, first + chunk_rows)
            hidden_RD, targets_R = hidden_TD[chunk], targets_T[chunk]
            logits_RV = logits_of(hidden_RD, weight_VD)
            of_targets_R = logits_RV.gather(1, targets_R[:, None])[:, 0] if z_weight else None
            losses_R, grad_RV = chunk_loss(logits_RV, targets_R, None if z_weight else scale)
            total += losses_R.sum(dtype=torch.float64)
            if of_targets_R is not None:
                log_sums_R = losses_R + of_targets_R
                z_total += log_sums_R.double().square().sum()
                grad_RV *= (1.0 + 2.0 * z_weight * log_sums_R)[:, None]
                grad_RV[torch.arange(targets_R.shape[0], device=targets_R.device), targets_R] -= 1.0
                grad_RV *= scale
            grad_hidden_TD[chunk] = rows.input_gradient(grad_RV, wide_VD)
            if ctx.needs_input_grad[1]:
                wide_RD = hidden_RD.to(wide_VD.dtype)
                grad_weight_VD = gradients.add_weight_gradient(grad_weight_VD, grad_RV, wide_RD)
        if grad_weight_VD is None and ctx.needs_input_grad[1]:  # there are no rows
            grad_weight_VD = torch.zeros_like(wide_VD)
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        ctx.dtypes = hidden_TD.dtype, weight_VD.dtype
        z_loss = (z_total * scale).to(wide_VD.dtype)
        ctx.mark_non_differentiable(z_loss)
        return ((total + z_weight * z_total) * scale).to(wide_VD.dtype), z_loss

    @staticmethod
    def backward(ctx, grad, _):
        grad_hidden_TD, grad_weight_VD = ctx.saved_tensors
        of_hidden, of_weight = ctx.dtypes
        grad_weight = None
        if grad_weight_VD is not None:
            grad_weight = (grad_weight_VD * grad).to(of_weight).contiguous()
        return (grad_hidden_TD * grad).to(of_hidden), grad_weight, None, None, None, None


def cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    chunk_rows: int,
    denominator: int | None = None,
) -> torch.Tensor:
    """Mean cross-entropy in nats of the head's logits hidden W^T against targets int64 [T]; a scalar.

    Differentiable in hidden_TD and weight_VD, both of one dtype; the loss is fp32 at least. Peak memory:
    chunk_rows rows of the vocabulary. denominator: what the sum over rows is divided by; None: their number.
    """
    return cross_entropy_and_z(
        hidden_TD, weight_VD, targets_T, chunk_rows=chunk_rows, denominator=denominator, z_weight=0.0
    )[0]


def cross_entropy_and_z(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    chunk_rows: int,
    denominator: int | None,
    z_weight: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(`cross_entropy` plus z_weight times the z-loss, the z-loss without a gradient).

    The z-loss is the mean squared logsumexp of the logits (PaLM, arXiv 2204.02311, section 5); 0 where its weight is.
    """
    rows_or_given = denominator or hidden_TD.shape[0]
    return _ChunkedCrossEntropy.apply(hidden_TD, weight_VD, targets_T, chunk_rows, rows_or_given, z_weight)
