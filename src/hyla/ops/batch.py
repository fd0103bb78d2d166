"""The packed batch: which rows belong to which sequence, at which absolute positions, in which cache slots.

Token tensors are flat, `[T, ...]` over all sequences. Every sequence lives on one absolute grid of `CHUNK` = 64
positions: chunks of the linear mixers, KV pages and key blocks of softmax attention are the same 64 tokens.

A `Batch` is made on the host from plain integers, once per step; the index tensors that operators need are derived
from them (and kept), so an operator never asks the device for a length.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch

from hyla.errors import ConfigError, RequestError

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """One packed forward call.

    lengths: new rows of each sequence, >= 1.
    starts:  tokens of each sequence that its cache already holds; the absolute position of its first new row.
    slots:   state slot of each sequence (slot 0 is the null slot), or None when nothing is cached (training, scoring):
             then nothing is kept, and a sequence that starts past 0 needs states from before it (`ops.gated_delta`).
    pages:   KV pages of each sequence, enough for `starts + lengths` tokens, or None with `slots`.
    window_pages: by window, the same for layers that see no further back, 0 for pages behind it; a window that is not
             named shares `pages`.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    slots: tuple[int, ...] | None = None
    pages: tuple[tuple[int, ...], ...] | None = None
    window_pages: Mapping[int, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        if not self.lengths or min(self.lengths) < 1:
            raise RequestError(f"every sequence of a batch needs at least one new token; lengths are {self.lengths}")

    @classmethod
    def packed(cls, lengths: Iterable[int], device: torch.device | str = "cpu") -> Batch:
        """Whole sequences without a cache: training documents, scored prompts."""
        lengths = tuple(int(n) for n in lengths)
        return cls(lengths=lengths, starts=(0,) * len(lengths), device=torch.device(device))

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @property
    def is_cached(self) -> bool:
        return self.slots is not None

    @property
    def cached_slots(self) -> tuple[int, ...]:
        """`slots` of a batch that goes with a cache."""
        if self.slots is None:
            raise ConfigError("a cache was given, but the batch has no slots; make it with cache.batch(...)")
        return self.slots

    @property
    def cached_pages(self) -> tuple[tuple[int, ...], ...]:
        """`pages` of a batch that goes with a cache."""
        if self.pages is None:
            raise ConfigError("a cache was given, but the batch has no pages; make it with cache.batch(...)")
        return self.pages

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Tokens of each sequence after this call."""
        return tuple(start + length for start, length in zip(self.starts, self.lengths))

    def pages_of(self, window: int | None) -> tuple[tuple[int, ...], ...] | None:
        """KV pages of each sequence for layers with this window (None: that see everything)."""
        return self.pages if window is None else self.window_pages.get(window, self.pages)

    @cached_property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Flat row of each sequence's first new token."""
        offsets, total = [], 0
        for length in self.lengths:
            offsets.append(total)
            total += length
        return tuple(offsets)

    @cached_property
    def positions_T(self) -> torch.Tensor:
        """int64 [T], absolute position of each row in its sequence."""
        parts = [torch.arange(start, end) for start, end in zip(self.starts, self.ends)]
        return torch.cat(parts).to(self.device)

    @cached_property
    def spans_4N(self) -> torch.Tensor:
        """int64 [4, N] on the host: offsets, lengths, starts and slots (zeros without a cache), for native kernels."""
        return torch.tensor([self.offsets, self.lengths, self.starts, self.slots or (0,) * self.num_sequences])

    @cached_property
    def last_rows_N(self) -> torch.Tensor:
        """int64 [N], flat row of each sequence's last new token."""
        rows = [offset + length - 1 for offset, length in zip(self.offsets, self.lengths)]
        return torch.tensor(rows, device=self.device)

    @cached_property
    def decode_sequences(self) -> tuple[int, ...]:
        """Sequences of this call with exactly one new row and a cache: they take the one-row path of the operators."""
        if not self.is_cached:
            return ()
        return tuple(n for n, length in enumerate(self.lengths) if length == 1)

    @cached_property
    def prefill_sequences(self) -> tuple[int, ...]:
        """All sequences but `decode_sequences`: they take the chunk path of the operators."""
        decode = set(self.decode_sequences)
        return tuple(n for n in range(self.num_sequences) if n not in decode)

    def part(self, sequences: tuple[int, ...]) -> tuple[torch.Tensor, Batch]:
        """Some of its sequences, ascending, as a call of their own with int64 [T'], their flat rows here. Kept."""
        return self.memo(("part", sequences), lambda: self._part(sequences))

    def _part(self, sequences: tuple[int, ...]) -> tuple[torch.Tensor, Batch]:
        def of(values):
            return None if values is None else tuple(values[n] for n in sequences)

        windows = {window: tuple(tables[n] for n in sequences) for window, tables in self.window_pages.items()}
        own = Batch(
            lengths=tuple(self.lengths[n] for n in sequences),
            starts=tuple(self.starts[n] for n in sequences),
            slots=of(self.slots),
            pages=of(self.pages),
            window_pages=windows,
            device=self.device,
        )
        spans = [range(self.offsets[n], self.offsets[n] + self.lengths[n]) for n in sequences]
        return self.index([row for span in spans for row in span]), own

    def memo(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make()` gives, made at the first call with this key and kept as long as the batch.

        For plans and tables that follow from the batch's integers: the layers of a step share them. A key begins with
        the name of what is kept, so that nobody meets somebody else's.
        """
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def table(self, key: Hashable, make: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """`make(self)`, kept like a memo: a tensor that follows from the batch's integers.

        A kernel that takes what changes from step to step from tables alone can be recorded (`models.recording`): the
        tables are filled anew for the next batch of the same lengths, with as many rows or, at the first dimension,
        fewer or more. So `make` depends on nothing but its batch.
        """
        return self.memo(key, lambda: make(self))

    def require(self, key: Hashable, check: Callable[[Batch], None]) -> None:
        """Let `check(self)` raise if it must, once for each key; where a step is recorded, again for every batch."""
        self.memo(key, lambda: check(self))

    def index(self, values) -> torch.Tensor:
        """int64 tensor of host integers on the batch's device."""
        return torch.tensor(values, dtype=torch.int64, device=self.device)
