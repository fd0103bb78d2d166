"""What stands around attention over a latent (MLA): absorbed queries and keys before it, heads' outputs behind it."""

from __future__ import annotations

import torch

from hyla.ops.backends import choose
from hyla.ops.latent import pytorch
from hyla.ops.weights.heads import HeadMatrices, HeadTiles

__all__ = ["absorb", "head_outputs"]

Heads = HeadMatrices | HeadTiles


def absorb(
    q_THR: torch.Tensor,
    kv_TR: torch.Tensor,
    weight_L: torch.Tensor,
    cos_sin_TR: torch.Tensor | None,
    k_up: Heads | None,
    *,
    eps: float,
    interleaved: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries that meet the latent itself, and the keys that are cached.

    q~ = [k_up q_nope | rotate(q_pe)],  k = [x / sqrt(mean(x^2) + eps) w | rotate(k_pe)],  kv = [x | k_pe]
    Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.

    Args:
        q_THR: [T, H, nope + rope], in the model's dtype. kv_TR: [T, L + rope], in the same.
        weight_L: of the latent's RMS norm, with eps.
        cos_sin_TR: [T, R] in fp32 (float64 for float64), cosines then sines, R <= rope; None: no rotation.
        k_up: matrices of heads, nope -> L; None: the queries are not absorbed (`expanded` reads them).
        interleaved: channels 2i and 2i + 1 are a pair, instead of i and i + R / 2.
    Returns: q~ [T, H, L + rope] (nope + rope without k_up) in fp32 (float64 for float64); k [T, 1, L + rope] in the
        model's dtype, rounded once.
    Cost: cost.py. Exactness: a row's bits depend on that row alone; with and without autograd they are the same.
    """
    backend = _backend(q_THR, kv_TR, weight_L, k_up)
    return backend.forward(q_THR, kv_TR, weight_L, cos_sin_TR, k_up, eps=eps, interleaved=interleaved)


def head_outputs(
    o_THL: torch.Tensor, v_up: Heads | None, gate_TH: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """What the heads read, out of the latent: v_up o, times sigmoid(gate) where there is one, rounded once to dtype.

    o: [T, H, L], fp32 (float64), without v_up the heads' own [T, H, V]; gate: [T, H] in any dtype. Returns [T, H V].
    """
    return _backend(o_THL, gate_TH, None, v_up).head_outputs(o_THL, v_up, gate_TH, dtype)


def _backend(x: torch.Tensor, y: torch.Tensor | None, z: torch.Tensor | None, heads: Heads | None):
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, y, z, heads)):
        # Composed of functions that have gradients; the same bits as the kernels.
        return pytorch
    return choose("latent", x, y, z)
