"""States that are handed to an operator and back, beside the cache form: by sequence of the batch, [N, H, K, V]."""

from __future__ import annotations

import torch

from hyla.errors import ConfigError, RequestError
from hyla.grid import CHUNK
from hyla.ops.batch import Batch
from hyla.ops.chunks.plan import ChunkPlan


def check_states(
    name: str,
    batch: Batch,
    cache,
    state_NHKV: torch.Tensor | None,
    return_state: bool,
    shape: tuple[int, int, int],
    like: torch.Tensor,
) -> None:
    """Raise unless the call has what its rows go on from, once. shape: [H, K, V] of a state; like: of its dtype.

    A state is what stands between two chunks, so a batch takes one up at a multiple of 64: inside a chunk, rows depend
    on the open rows as well.
    """
    if cache is not None:
        if state_NHKV is not None or return_state:
            raise ConfigError(f"{name}: give a cache or states, not both; a cached call leaves its state in the cache")
        return
    if state_NHKV is None:
        if any(batch.starts):
            raise RequestError(f"{name}: a batch that starts at {batch.starts} needs a cache or states from before it")
        return
    wanted = (batch.num_sequences, *shape)
    if tuple(state_NHKV.shape) != wanted or state_NHKV.dtype != like.dtype:
        found = f"{list(state_NHKV.shape)} {state_NHKV.dtype}"
        raise ConfigError(f"{name}: states are {found}; they must be {list(wanted)} {like.dtype}")
    if any(start % CHUNK for start in batch.starts):
        raise RequestError(f"{name}: states are taken up at multiples of {CHUNK}; the batch starts at {batch.starts}")


def by_rank(x_N: torch.Tensor, plan: ChunkPlan) -> torch.Tensor:
    """Rows by sequence, in the order of the plan's ranks (a copy)."""
    return x_N[list(plan.sequences)]


def by_sequence(x_R: torch.Tensor, plan: ChunkPlan) -> torch.Tensor:
    """Undo `by_rank`."""
    # Without a cache every sequence has a rank, so all places are filled.
    x_N = torch.empty_like(x_R)
    x_N[list(plan.sequences)] = x_R
    return x_N
