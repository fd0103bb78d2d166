"""Tables of pages alone: what is taken, shared and given back, with and without a window."""

import pytest
import torch
from recording_mixer import SPEC

from hyla.caches.ledger import Ledger
from hyla.caches.page_tables import PageTables, first_window_page
from hyla.caches.plan import Plan
from hyla.caches.sequence import Sequence
from hyla.caches.tensors import PoolTensors
from hyla.errors import CapacityError
from hyla.layers.protocol import CacheSpec, TensorSpec

WINDOW = 100
SPECS = (SPEC, CacheSpec(page_tensors=(TensorSpec("near", (64,), torch.int64, "kv"),), window=WINDOW))


def make(num_pages=7, num_near=5):
    ledger = Ledger(num_pages, 3, 0, {WINDOW: num_near})
    plan = Plan(PoolTensors(SPECS, ledger, "float32", torch.device("cpu")))
    return ledger, PageTables(ledger, plan.add), plan


def sequence_of(tables, length):
    sequence = Sequence(slot=1, tables={None: [], WINDOW: []})
    tables.reserve([(sequence, length)])
    sequence.length = length
    return sequence


def test_when_the_pages_of_one_window_are_short_none_are_taken():
    ledger, tables, _ = make(num_pages=7, num_near=2)
    with pytest.raises(CapacityError, match="3 window_100_pages are needed and 2 of 2"):
        sequence_of(tables, 130)
    assert (ledger.pages.free, ledger.windows[WINDOW].free) == (7, 2)


def test_pages_behind_the_window_are_given_back_and_stand_as_zero():
    ledger, tables, _ = make()
    sequence = sequence_of(tables, 300)
    tables.leave_window(sequence)
    first = first_window_page(300, WINDOW)
    assert first > 0 and sequence.tables[WINDOW] == [0] * first + list(range(first + 1, 6))
    assert ledger.windows[WINDOW].used == 5 - first and ledger.pages.used == 5
    tables.cut(sequence, 0)
    assert not any(sequence.tables.values())
    assert [units.used for units in ledger.units] == [0, 0, 0, 0]


def test_shared_pages_are_the_same_but_for_the_one_that_both_write():
    ledger, tables, plan = make()
    sequence = sequence_of(tables, 100)
    plan.carry_out()
    for window in (None, WINDOW):
        for tensor in plan.tensors.pages_of(window):
            tensor[sequence.tables[window]] = torch.arange(128).view(2, 64)
    other = Sequence(slot=2, tables={}, length=100)
    tables.share(sequence, other)
    plan.carry_out()
    for window in (None, WINDOW):
        mine, theirs = sequence.tables[window], other.tables[window]
        assert mine[0] == theirs[0] and mine[1] != theirs[1]
        for tensor in plan.tensors.pages_of(window):
            assert torch.equal(tensor[mine], tensor[theirs])
    assert ledger.pages.used == 3


def test_a_page_that_others_have_is_copied_before_its_rows_are_written_again():
    _, tables, _ = make()
    sequence = sequence_of(tables, 192)
    other = Sequence(slot=2, tables={}, length=192)
    tables.share(sequence, other)
    before = list(sequence.tables[None])
    tables.unshare(sequence, 128)
    assert sequence.tables[None] == before == other.tables[None]
    tables.unshare(sequence, 127)
    assert other.tables[None] == before
    assert sequence.tables[None][0] == before[0] and sequence.tables[None][2] == before[2]
    assert sequence.tables[None][1] not in before


def test_kept_window_pages_outlive_their_sequence():
    ledger, tables, _ = make()
    sequence = sequence_of(tables, 130)
    pages = sequence.tables[None][:2]
    ledger.pages.keep(pages)
    kept = tables.keep_windows(sequence, 128)
    tables.cut(sequence, 0)
    assert (ledger.pages.cached, ledger.windows[WINDOW].cached) == (2, 2)
    again = Sequence(slot=1, tables={None: [], WINDOW: []})
    tables.hold(again, pages, kept)
    assert (ledger.pages.used, ledger.windows[WINDOW].used) == (2, 2)
    tables.cut(again, 0)
    tables.drop_windows(kept)
    ledger.pages.drop(pages)
    assert ledger.pages.free == 7 and ledger.windows[WINDOW].free == 5
    ledger.check()
