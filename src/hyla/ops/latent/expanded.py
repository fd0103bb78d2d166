"""Attention over keys and values that are written out for each head, for long stretches of a prompt.

    k_h = [k_up_h^T c | k_pe],  v_h = v_up_h c,  o_h = softmax((q_h . k_h) scale) v_h

The sums of the absorbed form in another order, with keys and values rounded to the model's dtype on their way: other
bits, and up to half the time where many rows meet the same latents. Only for `numerics` "fast"; any backend.
Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.
"""

from __future__ import annotations

from functools import partial

import torch

from hyla.grid import CHUNK
from hyla.ops.attention import PagedKV, attention
from hyla.ops.batch import Batch
from hyla.ops.exact import rows
from hyla.ops.exact.batched import bmm
from hyla.ops.latent.cost import LEAST_ROWS, expansion_pays
from hyla.ops.weights.heads import HeadMatrices, HeadTiles

EXPANDED_BYTES = 1 << 26
"""Keys and values that exist at once: the heads are taken in groups that fit."""


def long_sequences(batch: Batch, *, latent_dim: int, nope_dim: int, rope_dim: int, value_dim: int) -> tuple[int, ...]:
    """Sequences of a call whose new rows are so many that keys and values are worth writing out. Kept on the batch."""
    if max(batch.lengths) < LEAST_ROWS:  # a decode step: nothing is asked that differs from step to step
        return ()
    dims = {"latent_dim": latent_dim, "nope_dim": nope_dim, "rope_dim": rope_dim, "value_dim": value_dim}
    return batch.memo(("expanded", *dims.values()), partial(_long_sequences, batch, dims))


def _long_sequences(batch: Batch, dims: dict[str, int]) -> tuple[int, ...]:
    spans = enumerate(zip(batch.starts, batch.lengths))
    return tuple(n for n, (start, length) in spans if expansion_pays(start, length, **dims))


def expanded_attention(
    q_THK: torch.Tensor,
    k_T1R: torch.Tensor,
    k_up: HeadMatrices | HeadTiles,
    v_up: HeadMatrices | HeadTiles,
    *,
    batch: Batch,
    k_pages: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """What each head reads: [T, H, V] in fp32 (float64 for float64).

    q: [T, H, nope + rope] and k: [T, 1, L + rope], as `absorb` gives them without k_up. k_up, v_up: as for the absorbed
    form. k_pages: [P, 1, L + rope, 64], the cache that `batch` goes with: the new rows of k are written to it.
    No gradient. Cost: cost.py. Exactness: none of rows; within the rounding of keys and values of the absorbed form.
    """
    k_up_HNL, v_up_HVL = (heads.in_place().detach().to(k_T1R.dtype) for heads in (k_up, v_up))
    parts = []
    for n, (offset, length) in enumerate(zip(batch.offsets, batch.lengths)):
        here, span = slice(offset, offset + length), (batch.starts[n], length)
        latents_PR64 = _latents(k_T1R[here], k_pages, batch.cached_pages[n], *span)
        parts.append(_attend(q_THK[here], latents_PR64, k_up_HNL, v_up_HVL, span, scale))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _latents(k_T1R, k_pages, pages: tuple[int, ...], start: int, length: int) -> torch.Tensor:
    """Write one sequence's new rows to their pages; all of its pages [1 + pages, L + rope, 64], the null page first."""
    positions_T = torch.arange(start, start + length, device=k_pages.device)
    page_P = torch.tensor((0, *pages[: -(-(start + length) // CHUNK)]), device=k_pages.device)
    k_pages[page_P[1 + positions_T // CHUNK], 0, :, positions_T % CHUNK] = k_T1R[:, 0]
    return k_pages[page_P, 0]


def _attend(q_THK, latents_PR64, k_up_HNL, v_up_HVL, span: tuple[int, int], scale: float) -> torch.Tensor:
    """One sequence, some heads at a time."""
    (num_pages, width, _), (start, length) = latents_PR64.shape, span
    heads, nope_dim, latent_dim = k_up_HNL.shape
    key_dim, value_dim = nope_dim + width - latent_dim, v_up_HVL.shape[1]
    head_bytes = num_pages * CHUNK * (key_dim + value_dim) * latents_PR64.element_size()
    size = max(1, EXPANDED_BYTES // head_bytes)
    own = Batch((length,), (start,), (1,), (tuple(range(1, num_pages)),), device=q_THK.device)
    parts = []
    for first in range(0, heads, size):
        group = slice(first, first + size)
        k_pages, v_pages = _expand(latents_PR64, k_up_HNL[group], v_up_HVL[group])
        new_k, new_v = _rows(k_pages.transpose(2, 3), *span), _rows(v_pages, *span)
        cache = PagedKV(k_pages, v_pages)
        parts.append(attention(q_THK[:, group], new_k, new_v, batch=own, cache=cache, scale=scale))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _expand(latents_PR64, k_up_HNL, v_up_HVL) -> tuple[torch.Tensor, torch.Tensor]:
    """Pages of keys [P, H, nope + rope, 64] and values [P, H, 64, V] of some heads."""
    num_pages, (heads, nope_dim, latent_dim) = latents_PR64.shape[0], k_up_HNL.shape
    latent_PL64, k_pe_PR64 = latents_PR64[:, :latent_dim], latents_PR64[:, latent_dim:]
    k_nope = bmm(k_up_HNL.flatten(0, 1).expand(num_pages, -1, -1), latent_PL64).view(num_pages, heads, nope_dim, CHUNK)
    k_pages = torch.cat([k_nope, k_pe_PR64[:, None].expand(-1, heads, -1, -1)], dim=2)
    v_PO = rows.linear(latent_PL64.transpose(1, 2).reshape(-1, latent_dim), v_up_HVL.flatten(0, 1))
    return k_pages, v_PO.view(num_pages, CHUNK, heads, -1).transpose(1, 2).contiguous()


def _rows(pages_PH64K: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """Rows [T, H, .] from a position on, of pages [P, H, 64, .] that follow a null page."""
    first, last = start // CHUNK, (start + length - 1) // CHUNK
    found = pages_PH64K[1 + first : 2 + last].transpose(1, 2).flatten(0, 1)
    return found[start - first * CHUNK :][:length]
