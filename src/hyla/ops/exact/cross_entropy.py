"""Next-token cross-entropy in row chunks: logits of the whole batch never live at once."""

from __future__ import annotations

import torch

from hyla.ops.backends import choose
from hyla.ops.exact import rows
from hyla.ops.exact.primitives import OPERATOR


def chunk_loss(
    logits_RV: torch.Tensor, targets_R: torch.Tensor, scale: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's cross-entropy in nats [R], and the probabilities [R, V]. Overwrites dense logits_RV.

    scale: give the gradient of so many times the losses' sum instead of the probabilities.
    """
    return choose(OPERATOR, logits_RV).chunk_loss(logits_RV, targets_R, scale)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Takes the gradient of each chunk right after its loss, so that nothing of size [T, vocab] is kept."""

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, targets_T, chunk_rows, divisor):
        total = torch.zeros((), dtype=torch.float64, device=hidden_TD.device)
        grad_hidden_TD = torch.empty_like(hidden_TD)
        grad_weight_VD = torch.zeros_like(weight_VD)
        scale = 1.0 / (hidden_TD.shape[0] if divisor is None else divisor)
        for first in range(0, hidden_TD.shape[0], chunk_rows):
            chunk = slice(first, first + chunk_rows)
            hidden_RD, targets_R = hidden_TD[chunk], targets_T[chunk]
            losses_R, grad_RV = chunk_loss(rows.linear(hidden_RD, weight_VD), targets_R, scale)
            total += losses_R.sum(dtype=torch.float64)
            grad_hidden_TD[chunk] = rows.input_gradient(grad_RV, weight_VD)
            grad_weight_VD += rows.weight_gradient(grad_RV, hidden_RD)
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        return (total * scale).to(hidden_TD.dtype)

    @staticmethod
    def backward(ctx, grad):
        grad_hidden_TD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_TD * grad, grad_weight_VD * grad, None, None, None


def cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    chunk_rows: int,
    divisor: float | None = None,
) -> torch.Tensor:
    """Mean cross-entropy in nats of the head's logits hidden W^T against targets int64 [T]; a scalar.

    Differentiable in hidden_TD and weight_VD, both fp32. Peak memory: chunk_rows rows of the vocabulary.
    divisor: of the summed losses, > 0 (1: their sum; the rows of a whole step: this call's share of its mean); None:
    the number of rows.
    """
    return _ChunkedCrossEntropy.apply(hidden_TD, weight_VD, targets_T, chunk_rows, divisor)
