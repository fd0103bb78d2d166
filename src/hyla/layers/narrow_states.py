"""States that are rounded between chunks, as a memory of a narrower dtype would give them back.

It is the numerics of such a memory and nothing else: what is rounded is still kept in fp32, nothing is saved and
nothing is faster. Training, prefill and decode round at the same places, the multiples of 64, so they agree in every
bit as they do without it; the gradient goes through a rounding as if it were none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from hyla.grid import CHUNK
from hyla.ops.batch import Batch

StateDtype = Literal["float32", "bfloat16"]


def in_chunks(
    operator: Callable,
    *inputs: Any,
    dtype: torch.dtype,
    batch: Batch,
    cache: Any = None,
    state: torch.Tensor | None = None,
    return_state: bool = False,
    **options: Any,
):
    """An operator with a state, called chunk by chunk, its states rounded to `dtype` between them.

    operator: `ops.kda` or another one with its contract, which this has too. inputs: tensors [T, ...] by flat row, and
    what is the same for all rows.
    """
    pieces = pieces_of(batch)
    by_piece = [pieces.split(x) if isinstance(x, torch.Tensor) else [x] * len(pieces.batches) for x in inputs]
    outputs, states, after = [], [], state
    for number, (piece, rows) in enumerate(zip(pieces.batches, zip(*by_piece))):
        if cache is not None:
            outputs.append(operator(*rows, batch=piece, cache=cache, **options))
            slots = piece.index(piece.cached_slots)
            cache["anchor"][slots] = narrowed(cache["anchor"][slots], dtype)
            continue
        held = after if number == 0 or after is None else after[pieces.ranks[number]]
        out, left = operator(*rows, batch=piece, cache=None, state=held, return_state=True, **options)
        after = _Narrowed.apply(left, dtype)
        outputs.append(out)
        states += [after] if return_state else []
    found = pieces.joined(outputs)
    return (found, torch.cat(states)[pieces.last_states]) if return_state else found


def narrowed(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x rounded to the nearest number that `dtype` has, in its own dtype; what is one already stays as it is."""
    return x.to(dtype).to(x.dtype)


class _Narrowed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dtype):
        return narrowed(x, dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@dataclass(frozen=True)
class Pieces:
    """A batch cut at the multiples of 64: the first chunk of each sequence, then the second of those that have one."""

    batches: tuple[Batch, ...]
    ranks: tuple[torch.Tensor, ...]
    """int64: for each sequence of a piece its place in the piece before."""
    order_T: torch.Tensor | None
    """int64: the flat rows in the order of the pieces; None: as they are."""
    back_T: torch.Tensor | None
    """Its inverse."""
    last_states: torch.Tensor
    """int64 [N]: where each sequence's last state stands among those of all pieces, one after another."""

    def split(self, x_T: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows by piece."""
        x_T = x_T if self.order_T is None else x_T[self.order_T]
        return x_T.split([piece.num_tokens for piece in self.batches])

    def joined(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Undo `split`."""
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if self.back_T is None else whole[self.back_T]


def pieces_of(batch: Batch) -> Pieces:
    """A batch in pieces that end where chunks do; kept on the batch."""
    return batch.memo("pieces on the grid", lambda: _cut(batch))


def _cut(batch: Batch) -> Pieces:
    batches, ranks, order, last, held = [], [], [], [0] * batch.num_sequences, 0
    places, active = list(batch.starts), list(range(batch.num_sequences))
    while active:
        ends = {n: min((places[n] // CHUNK + 1) * CHUNK, batch.ends[n]) for n in active}
        batches.append(
            Batch(
                lengths=tuple(ends[n] - places[n] for n in active),
                starts=tuple(places[n] for n in active),
                slots=None if batch.slots is None else tuple(batch.slots[n] for n in active),
                pages=None if batch.slots is None else ((),) * len(active),
                device=batch.device,
            )
        )
        for rank, n in enumerate(active):
            first = batch.offsets[n] - batch.starts[n]
            order += range(first + places[n], first + ends[n])
            places[n], last[n] = ends[n], held + rank
        held += len(active)
        before, active = active, [n for n in active if places[n] < batch.ends[n]]
        ranks.append(batch.index([before.index(n) for n in active]))
    is_as_it_is = order == list(range(batch.num_tokens))
    order_T = None if is_as_it_is else batch.index(order)
    back_T = None if order_T is None else order_T.argsort()
    own = (batch,) if len(batches) == 1 else tuple(batches)
    return Pieces(own, (batch.index([]), *ranks[:-1]), order_T, back_T, batch.index(last))
