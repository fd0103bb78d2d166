"""Rows of a call by the expert that they go to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from hyla.ops.weights.protocol import Span, Spans, span_list


@dataclass(frozen=True)
class Groups:
    """Rows of one call, A = T k of them, by expert."""

    found: Spans
    """(expert, first row, last row + 1) of each expert that has rows; a kernel's also has empty ones."""
    order_A: torch.Tensor
    """int64: flat (token, slot) pair of each row."""
    rows_A: torch.Tensor
    """int64: row of each flat (token, slot) pair."""
    num_chosen: int

    @cached_property
    def spans(self) -> list[Span]:
        """Of the experts that have rows, on the host."""
        return span_list(self.found)

    @cached_property
    def tokens_A(self) -> torch.Tensor:
        """int64: token of each row."""
        return self.order_A // self.num_chosen


def group_rows(ids_Tk: torch.Tensor, num_experts: int) -> Groups:
    """Sort the (token, slot) pairs by expert. Reads the counts on the host."""
    flat_A = ids_Tk.flatten()
    order_A = flat_A.sort(stable=True)[1]
    rows_A = torch.empty_like(order_A)
    rows_A[order_A] = torch.arange(flat_A.numel(), device=flat_A.device)
    spans, first = [], 0
    for expert, count in enumerate(torch.bincount(flat_A, minlength=num_experts).tolist()):
        if count:
            spans.append((expert, first, first + count))
            first += count
    return Groups(spans, order_A, rows_A, ids_Tk.shape[1])
