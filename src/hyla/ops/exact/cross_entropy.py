"""Next-token cross-entropy in row chunks: logits of the whole batch never live at once."""

from __future__ import annotations

import torch

from hyla.ops.exact import rows
from hyla.ops.exact.sums import row_sum


def chunk_loss(logits_RV: torch.Tensor, targets_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's cross-entropy in nats [R], and the probabilities [R, V]. Overwrites logits_RV."""
    logits_RV -= logits_RV.amax(-1, keepdim=True)
    picked_R = logits_RV.gather(1, targets_R[:, None])[:, 0]
    weights_RV = logits_RV.exp_()
    sums_R = row_sum(weights_RV)
    return sums_R.log() - picked_R, weights_RV.div_(sums_R[:, None])


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Takes the gradient of each chunk right after its loss, so that nothing of size [T, vocab] is kept."""

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, targets_T, chunk_rows):
        total = torch.zeros((), dtype=torch.float64, device=hidden_TD.device)
        grad_hidden_TD = torch.empty_like(hidden_TD)
        # A frozen head, which is as large as the vocabulary, has no gradient to compute or to hold.
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        scale = 1.0 / hidden_TD.shape[0]
        for first in range(0, hidden_TD.shape[0], chunk_rows):
            chunk = slice(first, first + chunk_rows)
            hidden_RD, targets_R = hidden_TD[chunk], targets_T[chunk]
            losses_R, grad_RV = chunk_loss(rows.linear(hidden_RD, weight_VD), targets_R)
            total += losses_R.sum(dtype=torch.float64)
            grad_RV[torch.arange(targets_R.shape[0], device=targets_R.device), targets_R] -= 1.0
            grad_RV *= scale
            grad_hidden_TD[chunk] = rows.gradient_product(grad_RV, weight_VD)
            if grad_weight_VD is not None:
                grad_weight_VD += rows.gradient_product(grad_RV.t(), hidden_RD)
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        return (total * scale).to(hidden_TD.dtype)

    @staticmethod
    def backward(ctx, grad):
        grad_hidden_TD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_TD * grad, None if grad_weight_VD is None else grad_weight_VD * grad, None, None


def cross_entropy(
    hidden_TD: torch.Tensor, weight_VD: torch.Tensor, targets_T: torch.Tensor, *, chunk_rows: int
) -> torch.Tensor:
    """Mean cross-entropy in nats of the head's logits hidden W^T against targets int64 [T]; a scalar.

    Differentiable in hidden_TD and weight_VD, both fp32. Peak memory: chunk_rows rows of the vocabulary.
    """
    return _ChunkedCrossEntropy.apply(hidden_TD, weight_VD, targets_T, chunk_rows)
