"""New rows against a cache: single rows take the one-row path, all others the chunk path, for every operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hyla.ops.batch import Batch
from hyla.ops.chunks.plan import ChunkPlan, RowPlan, chunk_plan, row_plan


def extend_cached(
    batch: Batch,
    inputs: Sequence[torch.Tensor],
    append: Callable[..., torch.Tensor],
    extend: Callable[..., torch.Tensor],
    out_THV: torch.Tensor,
) -> torch.Tensor:
    """Outputs [T, H, V] of all rows of a cached batch, in `out` or in its place.

    inputs: tensors by flat row. append(RowPlan, *inputs): outputs of the decode sequences' rows, inputs cut to these;
    extend(ChunkPlan, *inputs): outputs of the prefill sequences' rows in `flat_rows_T` order, inputs whole. Both extend
    the cache.
    """
    if batch.decode_sequences:
        rows: RowPlan = row_plan(batch)
        if rows.covers_batch:
            # A step of decoding alone: nothing is gathered and nothing is put back.
            return append(rows, *inputs)
        out_THV[rows.flat_rows_N] = append(rows, *(x[rows.flat_rows_N] for x in inputs))
    if batch.prefill_sequences:
        chunks: ChunkPlan = chunk_plan(batch)
        out_THV[chunks.flat_rows_T] = extend(chunks, *inputs)
    return out_THV
