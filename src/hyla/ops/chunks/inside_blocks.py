"""Pairs of rows inside a block of 16, each with its own exponential; forward and backward walk the distance d = i - j.

run_d[i] is the sum of the last d log decays at row i, so the decay between rows j and i is exp(run_{i-j}[i]). The
backward is written out: autograd would keep and zero-fill a full-size tensor for every slice of every distance.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from hyla.grid import BLOCK
from hyla.ops.exact.sums import row_sum


class InsideBlocks(torch.autograd.Function):
    """apply(q, k [.., 16, K], log_decay [.., 16, K] float64, keys_read) -> A and P of the block [.., 16, 16] each, sums
    since the block's start [.., 16, K] (float64), keys decayed to the block's end, transposed [.., K, 16].

    P: queries with the keys up to their own. A: keys with the earlier keys, None unless keys_read (delta rules).
    """

    @staticmethod
    def forward(ctx, q, k, log_decay, keys_read: bool):
        ctx.save_for_backward(q, k, log_decay)
        dtype = k.dtype
        diagonals_a, diagonals_p = [torch.zeros_like(k[..., 0])], [row_sum(k * q)]
        since_start, to_end = [], [k[..., -1, :]]
        run = log_decay
        for distance in range(1, BLOCK + 1):
            since_start.append(run[..., 0, :])
            if distance == BLOCK:
                break
            weighted = torch.exp(run[..., 1:, :].to(dtype)) * k[..., : BLOCK - distance, :]
            if keys_read:
                diagonals_a.append(pad(row_sum(weighted * k[..., distance:, :]), (distance, 0)))
            diagonals_p.append(pad(row_sum(weighted * q[..., distance:, :]), (distance, 0)))
            to_end.append(weighted[..., -1, :])
            run = run[..., 1:, :] + log_decay[..., : BLOCK - distance, :]
        k_scaled = torch.stack(to_end[::-1], dim=-1).contiguous()
        a = _square(diagonals_a) if keys_read else None
        return a, _square(diagonals_p), torch.stack(since_start, dim=-2), k_scaled

    @staticmethod
    def backward(ctx, grad_a, grad_p, grad_since, grad_scaled):
        q, k, log_decay = ctx.saved_tensors
        sums = pad(log_decay.cumsum(-2), (0, 0, 1, 0))
        grad_end = grad_scaled.transpose(-1, -2)
        diagonal = grad_p.diagonal(dim1=-2, dim2=-1)[..., None]
        grad_q, grad_k = diagonal * k, diagonal * q
        grad_k[..., -1, :] += grad_end[..., -1, :]
        grad_decay = torch.zeros_like(k)
        grad_run = k.new_zeros(*k.shape[:-2], 0, k.shape[-1])
        for distance in range(BLOCK, 0, -1):
            # Rows distance - 1 .. 15; the first of them reaches back to the block's start and pairs with no row.
            run_grad = k.new_zeros(*k.shape[:-2], BLOCK - distance + 1, k.shape[-1])
            run_grad[..., 0, :] = grad_since[..., distance - 1, :]
            if distance < BLOCK:
                later, earlier = slice(distance, BLOCK), slice(0, BLOCK - distance)
                weight = torch.exp((sums[..., distance + 1 :, :] - sums[..., 1 : BLOCK - distance + 1, :]).to(k.dtype))
                weighted = weight * k[..., earlier, :]
                pair_p = grad_p.diagonal(-distance, dim1=-2, dim2=-1)[..., None]
                from_queries = pair_p * q[..., later, :]
                if grad_a is None:
                    grad_weighted = from_queries
                else:
                    pair_a = grad_a.diagonal(-distance, dim1=-2, dim2=-1)[..., None]
                    grad_weighted = pair_a * k[..., later, :]
                    grad_weighted += from_queries
                    grad_k[..., later, :] += pair_a * weighted
                grad_weighted[..., -1, :] += grad_end[..., BLOCK - 1 - distance, :]
                grad_q[..., later, :] += pair_p * weighted
                grad_k[..., earlier, :] += weight.mul_(grad_weighted)
                run_grad[..., 1:, :] += weighted.mul_(grad_weighted)
                # run_{d+1}[i] = run_d[i] + log_decay[i - d]
                run_grad[..., 1:, :] += grad_run
                grad_decay[..., earlier, :] += grad_run
            grad_run = run_grad
        return grad_q, grad_k, (grad_decay + grad_run).to(log_decay.dtype), None


def _square(diagonals: list[torch.Tensor]) -> torch.Tensor:
    """Diagonals by distance, each [.., 16] indexed by the later row -> [.., 16, 16], zero above the diagonal."""
    stacked = torch.stack(diagonals, dim=-2)
    place = torch.arange(BLOCK, device=stacked.device)
    distance = place[:, None] - place[None, :]
    square = stacked[..., distance.clamp_min(0), place[:, None]]
    return square * (distance >= 0).to(square.dtype)
