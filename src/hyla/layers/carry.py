"""States that go from one piece of a document to its next piece, while a model is trained on both in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from hyla.layers.narrow_states import StateDtype, in_chunks
from hyla.ops.batch import Batch

STATE, CONV = "state", "conv"


class Carry:
    """What one mixer takes over from before the first rows of a call, and what it leaves: in the place of a cache.

    Recurrent mixers go on from their memory (at a multiple of 64) and their convolution's last inputs, both constants:
    the gradient ends where a piece begins (arXiv 2507.02782). Softmax attention sees the rows of the call alone: the
    keys of all earlier pieces are what memory would be full of.
    """

    def __init__(self, before: dict[str, torch.Tensor] | None = None):
        """before: by name, [N, ...] by sequence of the batch; None: every sequence begins."""
        self.before = before or {}
        self.after: dict[str, torch.Tensor] = {}

    def next(self, sequences: Sequence[int]) -> Carry:
        """For a call whose sequences go on from these of the last one."""
        return Carry({name: tensor[list(sequences)] for name, tensor in self.after.items()})


def recur(operator: Callable, *inputs, cache: Any, state_dtype: StateDtype = "float32", **options: Any) -> torch.Tensor:
    """operator(*inputs, cache=cache, **options), or with a carry from the memory before to the one after.

    state_dtype: what states are rounded to between chunks (`layers.narrow_states`).
    """
    if state_dtype != "float32":
        operator = partial(in_chunks, operator, dtype=getattr(torch, state_dtype))
    return _handed_on(operator, STATE, *inputs, cache=cache, **options)


def remembered(operator: Callable, *inputs, state_dtype: StateDtype = "float32", **options: Any) -> torch.Tensor:
    """The memories that `recur` leaves after whole sequences, [N, H, K, V]."""
    return recur(operator, *inputs, cache=None, state_dtype=state_dtype, return_state=True, **options)[1]


def convolve(operator: Callable, *inputs, carry: Carry, **options: Any) -> torch.Tensor:
    """The same of a convolution's last inputs."""
    return _handed_on(operator, CONV, *inputs, cache=carry, **options)


def _handed_on(operator: Callable, name: str, *inputs, cache: Any, **options: Any) -> torch.Tensor:
    if not isinstance(cache, Carry):
        return operator(*inputs, cache=cache, **options)
    found, after = operator(*inputs, cache=None, state=cache.before.get(name), return_state=True, **options)
    cache.after[name] = after.detach()
    return found


def alone(
    batch: Batch, cache: Mapping[str, torch.Tensor] | Carry | None
) -> tuple[Batch, Mapping[str, torch.Tensor] | None]:
    """For a mixer that takes nothing over: with a carry, the same rows as sequences that begin, without a cache."""
    return (beginning(batch), None) if isinstance(cache, Carry) else (batch, cache)


def beginning(batch: Batch) -> Batch:
    """The same rows as sequences of their own, from position 0; kept on the batch."""
    if not any(batch.starts):
        return batch
    return batch.memo("pieces alone", lambda: Batch.packed(batch.lengths, device=batch.device))
