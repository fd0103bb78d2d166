"""Decode steps without Python between their kernels: the calls of one step, written down and made again.

A step that has the lengths of an earlier one makes the same calls with the same addresses, apart from what its batch
says in tables (`Batch.table`): where sequences stand, their pages, their angles. So the forward of the earlier one is
run with a recorder on, its results in memory of its own, and a later step fills the tables and lets one native call
make all kernel calls again. They are the same calls, so the bits are the same.

What cannot be recorded is seen while recording: an operation of PyTorch that computes, or a look at the batch's
integers by other means than tables. A sublayer in which that happens runs in Python, between two programs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from hyla.layers.protocol import LayerCache
from hyla.models.mtp import Hidden
from hyla.models.stack import Sublayer
from hyla.models.trunk import Model
from hyla.ops import backends, numerics
from hyla.ops.batch import Batch
from hyla.ops.native.launching import recording
from hyla.ops.native.program import Program, Tape

MAX_RECORDED = 16
"""Steps of different lengths that are kept."""

MAX_ROWS = 64
"""Rows of a step that is worth recording: with more, Python is a small part of it."""

VIEWS = frozenset(
    {
        "_reshape_alias", "alias", "as_strided", "chunk", "contiguous", "detach", "expand", "flatten", "narrow",
        "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "to", "transpose",
        "unbind", "unflatten", "unsqueeze", "view", "view_as",
    }
)  # fmt: skip
"""PyTorch's operations that compute nothing where their result lies in their operand's memory."""

MEMORY = frozenset(("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"))

INTEGERS = frozenset(
    {
        "cached_pages", "cached_slots", "ends", "last_rows_N", "memo", "pages", "pages_of", "positions_T", "slots",
        "starts", "window_pages",
    }
)  # fmt: skip
"""What a batch says that the next one of the same lengths says otherwise."""


class Watch(TorchDispatchMode):
    """Notices what a recording cannot hold."""

    def __init__(self):
        super().__init__()
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        if name not in MEMORY and not (name in VIEWS and _shares_memory(args[0], result)):
            self.found[name] = None
        return result


def _shares_memory(operand: torch.Tensor, result) -> bool:
    place = operand.untyped_storage().data_ptr()
    parts = [result] if isinstance(result, torch.Tensor) else result
    return all(part.untyped_storage().data_ptr() == place for part in parts)


class _Tables:
    """The tables of a recorded step, which every later batch fills."""

    def __init__(self, batch: Batch):
        self.batch = batch
        self._made: dict[Hashable, tuple[Callable[[Batch], torch.Tensor], torch.Tensor]] = {}
        self._checks: dict[Hashable, Callable[[Batch], None]] = {}

    def table(self, key: Hashable, make: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        if key not in self._made:
            values = self.batch.table(key, make)
            # Page lists grow; the kernels read as far as the batch says.
            room = values.new_zeros(2 * values.shape[0], *values.shape[1:])
            room[: values.shape[0]] = values
            self._made[key] = make, (room if values.dim() == 1 else values.clone())
        return self._made[key][1]

    def require(self, key: Hashable, check: Callable[[Batch], None]) -> None:
        self.batch.require(key, check)
        self._checks[key] = check

    def fill(self, batch: Batch) -> bool:
        """Put another batch's tables in. False: one does not fit."""
        for key, check in self._checks.items():
            batch.require(key, check)
        for key, (make, table) in self._made.items():
            values = batch.table(key, make)
            if values.shape[0] > table.shape[0]:
                return False
            (table if values.shape[0] == table.shape[0] else table[: values.shape[0]]).copy_(values)
        return True


class _WatchedBatch(Batch):
    """The batch of a step that is being recorded, which tells when somebody asks what the next batch says otherwise."""

    def __init__(self, batch: Batch, watch: Watch):
        for field in fields(Batch):
            object.__setattr__(self, field.name, {} if field.name == "_kept" else getattr(batch, field.name))
        self.__dict__.update(_watch=watch, tables=_Tables(batch))

    def __getattribute__(self, name: str):
        if name in INTEGERS:
            object.__getattribute__(self, "__dict__")["_watch"].found[f"batch.{name}"] = None
        return super().__getattribute__(name)

    @property
    def is_cached(self) -> bool:
        return True

    @property
    def spans_4N(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.table("spans", lambda batch: batch.spans_4N)

    def table(self, key: Hashable, make: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        with _disable_current_modes():
            return self.tables.table(key, make)

    def require(self, key: Hashable, check: Callable[[Batch], None]) -> None:
        with _disable_current_modes():
            self.tables.require(key, check)


@dataclass(frozen=True)
class _InPython:
    """A sublayer that could not be recorded."""

    sublayer: Sublayer
    cache: LayerCache | None
    stream_TD: torch.Tensor
    result_TD: torch.Tensor


class RecordedStep:
    """One step's forward, for batches of the lengths of the batch that it was recorded with.

    reasons: by kind of sublayer that runs in Python, what stood against recording it.
    """

    def __init__(self, model: Model, tokens_T: torch.Tensor, batch: Batch, caches: Sequence[LayerCache]):
        """Runs the forward of this batch, too; `hidden` has its result."""
        self._model, self._caches = model, caches
        self._stored = [(projection, projection.stored) for projection in model.projections()]
        self._places = [(weight, weight.data_ptr()) for weight in model.parameters() if not weight.is_meta]
        self._parts: list[Program | _InPython] = []
        self.reasons: dict[str, set[str]] = {}
        self.num_recorded = 0
        watch, tape = Watch(), Tape()
        watched = _WatchedBatch(batch, watch)
        self._tables = watched.tables
        self._first_TD = stream_TD = model.embed(tokens_T)
        remaining = iter(caches)
        with recording(tape):
            for sublayer in model.sublayers:
                cache = next(remaining) if sublayer.is_mixer else None
                stream_TD = self._record(sublayer, stream_TD, watched, cache, watch, tape)
            tape.begin()
            self._head_TD, self._raw_TD = model.norm(stream_TD), stream_TD
        self._parts.append(tape.take())
        self.nbytes = tape.nbytes

    def _record(self, sublayer: Sublayer, stream_TD: torch.Tensor, batch, cache, watch: Watch, tape: Tape):
        tape.begin()
        watch.found.clear()
        with watch:
            result_TD = sublayer(stream_TD, batch, cache)
        if not watch.found:
            self.num_recorded += 1
            return result_TD
        self.reasons.setdefault(sublayer.config.module.kind, set()).update(watch.found)
        before = tape.withdraw()
        kept_TD = result_TD.clone()
        self._parts += [before, _InPython(sublayer, cache, stream_TD, kept_TD)]
        return kept_TD

    def is_valid(self, caches: Sequence[LayerCache]) -> bool:
        """Whether model and caches still have what the calls point to."""
        return (
            len(caches) == len(self._caches)
            and all(a is b for a, b in zip(caches, self._caches))
            and all(projection.stored == stored for projection, stored in self._stored)
            and all(weight.data_ptr() == place for weight, place in self._places)
        )

    @property
    def hidden(self) -> Hidden:
        """Of the newest step, in memory of its own."""
        head_TD = self._head_TD.clone()
        reads_raw = bool(self._model.config.mtp) and self._model.config.mtp[0].reads == "raw"
        return Hidden(head_TD, self._raw_TD.clone() if reads_raw else head_TD)

    def run(self, tokens_T: torch.Tensor, batch: Batch) -> Hidden | None:
        """The forward of another batch of the same lengths; None where its tables do not fit (nothing is changed)."""
        if not self._tables.fill(batch):
            return None
        self._first_TD.copy_(self._model.embed(tokens_T))
        for part in self._parts:
            if isinstance(part, Program):
                part.run()
            else:
                part.result_TD.copy_(part.sublayer(part.stream_TD, batch, part.cache))
        return self.hidden


class StepForward:
    """`Model.hidden` with caches, by recorded steps where that can be had.

    A kind of step (its lengths) is recorded when it comes the second time; the least recently used are forgotten.
    is_on: False computes every step in Python.
    """

    def __init__(self, model: Model, *, is_on: bool = True):
        self.model, self.is_on = model, is_on
        self._steps: OrderedDict[Hashable, RecordedStep | None] = OrderedDict()
        self.num_replayed = 0

    def __call__(self, tokens_T: torch.Tensor, batch: Batch, caches: Sequence[LayerCache]) -> Hidden:
        if not self._may_record(batch):
            return self.model.hidden(tokens_T, batch, caches)
        key = (batch.lengths, torch.get_num_threads(), backends.on(batch.device), numerics.chosen())
        seen, step = key in self._steps, self._steps.get(key)
        if step is not None and step.is_valid(caches):
            hidden = step.run(tokens_T, batch)
            if hidden is not None:
                self._steps.move_to_end(key)
                self.num_replayed += 1
                return hidden
        self._keep(key, None)
        if not seen:
            return self.model.hidden(tokens_T, batch, caches)
        step = RecordedStep(self.model, tokens_T, batch, caches)
        self._keep(key, step)
        return step.hidden

    def _may_record(self, batch: Batch) -> bool:
        is_small = batch.num_tokens <= MAX_ROWS and len(set(batch.lengths)) == 1
        return self.is_on and is_small and batch.is_cached and backends.uses_native(self.model.norm.weight)

    def _keep(self, key: Hashable, step: RecordedStep | None) -> None:
        self._steps[key] = step
        self._steps.move_to_end(key)
        while len(self._steps) > MAX_RECORDED:
            self._steps.popitem(last=False)

    def forget(self) -> None:
        """Let go of everything that recorded steps hold: weights and caches among it."""
        self._steps.clear()

    def report(self) -> dict:
        """As data for JSON: steps that are kept, steps that were replayed, and what runs in Python there and why."""
        steps = [step for step in self._steps.values() if step is not None]
        reasons: dict[str, set[str]] = {}
        for step in steps:
            for kind, found in step.reasons.items():
                reasons.setdefault(kind, set()).update(found)
        in_python = {kind: sorted(found) for kind, found in sorted(reasons.items())}
        nbytes = sum(step.nbytes for step in steps)
        return {"kept": len(steps), "bytes": nbytes, "replayed": self.num_replayed, "in_python": in_python}
