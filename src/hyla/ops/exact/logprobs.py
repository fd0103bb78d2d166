"""Log-probabilities of given tokens, with their gradient, in row chunks: nothing of [T, vocab] is kept."""

from __future__ import annotations

import torch

from hyla.ops.exact import rows
from hyla.ops.exact.cross_entropy import chunk_loss, logits_of


class _ChunkedLogProbs(torch.autograd.Function):
    """Makes the logits of each chunk once more in the backward pass, when the rows' weights are known."""

    @staticmethod
    def forward(ctx, hidden_TD, weight_VD, targets_T, chunk_rows):
        ctx.save_for_backward(hidden_TD, weight_VD, targets_T)
        ctx.chunk_rows = chunk_rows
        parts = [
            -chunk_loss(logits_of(hidden_RD, weight_VD), targets_R)[0]
            for hidden_RD, targets_R in zip(hidden_TD.split(chunk_rows), targets_T.split(chunk_rows))
        ]
        return torch.cat(parts) if parts else hidden_TD.new_zeros(0)

    @staticmethod
    def backward(ctx, grad_T):
        hidden_TD, weight_VD, targets_T = ctx.saved_tensors
        wide_VD = weight_VD.to(grad_T.dtype)
        grad_hidden_TD = torch.empty_like(hidden_TD, dtype=grad_T.dtype)
        grad_weight_VD = None
        for first in range(0, hidden_TD.shape[0], ctx.chunk_rows):
            chunk = slice(first, first + ctx.chunk_rows)
            hidden_RD, targets_R = hidden_TD[chunk], targets_T[chunk]
            _, grad_RV = chunk_loss(logits_of(hidden_RD, weight_VD), targets_R)
            grad_RV[torch.arange(targets_R.shape[0], device=targets_R.device), targets_R] -= 1.0
            grad_RV *= -grad_T[chunk, None]
            grad_hidden_TD[chunk] = rows.input_gradient(grad_RV, wide_VD)
            if ctx.needs_input_grad[1]:
                wide_RD = hidden_RD.to(wide_VD.dtype)
                grad_weight_VD = rows.add_weight_gradient(grad_weight_VD, grad_RV, wide_RD)
        if grad_weight_VD is None and ctx.needs_input_grad[1]:  # there are no rows
            grad_weight_VD = torch.zeros_like(wide_VD)
        of_weight = None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype).contiguous()
        return grad_hidden_TD.to(hidden_TD.dtype), of_weight, None, None


def token_logprobs(
    hidden_TD: torch.Tensor, weight_VD: torch.Tensor, targets_T: torch.Tensor, *, chunk_rows: int
) -> torch.Tensor:
    """ln p of targets int64 [T] under the softmax of hidden W^T; [T], nats, <= 0.

    Differentiable in hidden_TD and weight_VD, both of one dtype; the result is fp32 at least. Peak memory:
    chunk_rows rows of the vocabulary.
    """
    return _ChunkedLogProbs.apply(hidden_TD, weight_VD, targets_T, chunk_rows)
