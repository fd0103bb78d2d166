"""Inputs that are handed to the convolution and back, [N, L - 1, C], beside the ring of a cache.

A handed-in state becomes a ring of this call's own, so that both backends read it as they read a cache.
"""

from __future__ import annotations

import torch

from hyla.errors import ConfigError, RequestError
from hyla.ops.batch import Batch
from hyla.ops.short_conv.cost import RING


def check_state(batch: Batch, cache, state_NJC, return_state: bool, x_TC: torch.Tensor, taps: int) -> None:
    """Raise unless the call has what its first rows go on from, once."""
    if cache is not None:
        if state_NJC is not None or return_state:
            raise ConfigError(
                "short_conv: give a cache or states, not both; a cached call leaves its inputs in the ring"
            )
        return
    if state_NJC is None:
        if any(batch.starts):
            raise RequestError(
                f"short_conv: a batch that starts at {batch.starts} needs a cache or states with the inputs before it"
            )
        return
    wanted = (batch.num_sequences, taps - 1, x_TC.shape[1])
    if tuple(state_NJC.shape) != wanted or state_NJC.dtype != x_TC.dtype:
        found = f"{list(state_NJC.shape)} {state_NJC.dtype}"
        raise ConfigError(f"short_conv: states are {found}; they must be {list(wanted)} {x_TC.dtype}")


def behind_ring(batch: Batch) -> Batch:
    """The same rows with slots 0, 1, ... and one whole ring of earlier inputs; kept on the batch."""
    count = batch.num_sequences

    def make() -> Batch:
        return Batch(batch.lengths, (RING,) * count, tuple(range(count)), ((),) * count, device=batch.device)

    return batch.memo("short_conv behind a ring", make)


def ring_of(state_NJC: torch.Tensor) -> torch.Tensor:
    """[N, RING, C] with the state where the inputs before position RING stand."""
    ring = state_NJC.new_zeros(state_NJC.shape[0], RING, state_NJC.shape[2])
    ring[:, RING - state_NJC.shape[1] :] = state_NJC.detach()
    return ring


def last_inputs(x_TC: torch.Tensor, state_NJC: torch.Tensor | None, batch: Batch, taps: int) -> torch.Tensor:
    """The last L - 1 inputs of each sequence, older ones from the state (None: zeros). Plain autograd."""
    kept, tokens = taps - 1, x_TC.shape[0]
    before = x_TC.new_zeros(batch.num_sequences, kept, x_TC.shape[1]) if state_NJC is None else state_NJC
    rows = []
    for n, (offset, length) in enumerate(zip(batch.offsets, batch.lengths)):
        places = range(length - kept, length)
        rows.append([offset + place if place >= 0 else tokens + (n + 1) * kept + place for place in places])
    return torch.cat([x_TC, before.flatten(0, 1)])[batch.index(rows)]
