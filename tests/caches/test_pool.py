import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from recording_mixer import SPEC, expected, read, write

from hyla.caches import Cache
from hyla.errors import CapacityError, ConfigError, HylaError
from hyla.layers.protocol import CacheSpec


def make(num_pages=6, num_slots=3, num_snapshots=0):
    specs = [SPEC, CacheSpec()]
    return Cache(specs, num_pages=num_pages, num_slots=num_slots, num_snapshots=num_snapshots)


def keep(cache, sequence):
    """(pages, checkpoint) of what a sequence has closed, kept as the prefix cache keeps them."""
    units = cache.ledger.snapshots.take(1)
    checkpoint = cache.checkpoint(sequence, *units)
    cache.ledger.snapshots.pass_on(units)
    pages = sequence.pages[: checkpoint.length // 64]
    cache.ledger.pages.keep(pages)
    return pages, checkpoint


def extend(cache, sequence, tokens, commit=None):
    batch = cache.batch([(sequence, len(tokens))])
    write(cache.layers[0], batch, tokens)
    cache.commit(sequence, len(tokens) if commit is None else commit)
    return batch


def test_pages_and_slots_start_at_one_and_come_back_lowest_first():
    cache = make()
    first, second = cache.open(), cache.open()
    assert (first.slot, second.slot) == (1, 2)
    assert extend(cache, first, range(130)).pages == ((1, 2, 3),)
    cache.close(first)
    assert cache.open().slot == 1
    assert extend(cache, second, range(65)).pages == ((1, 2),)


def test_a_batch_starts_where_its_sequences_ended():
    cache = make()
    first, second = cache.open(), cache.open()
    extend(cache, first, range(63))
    batch = cache.batch([(second, 5), (first, 2)])
    assert (batch.lengths, batch.starts, batch.slots) == ((5, 2), (0, 63), (2, 1))
    assert batch.pages == ((2,), (1, 3))
    assert first.length == 63


def test_a_reused_slot_and_page_hold_zeros():
    cache = make()
    sequence = cache.open()
    extend(cache, sequence, [7] * 70)
    slot, pages = sequence.slot, list(sequence.pages)
    cache.close(sequence)
    again = cache.open()
    batch = cache.batch([(again, 70)])
    assert (again.slot, batch.pages[0]) == (slot, tuple(pages))
    for name, tensor in cache.layers[0].items():
        assert not tensor[pages if name == "tokens" else slot].any()


def test_a_closed_sequence_is_unusable():
    cache = make()
    sequence = cache.open()
    cache.close(sequence)
    uses = [
        lambda: cache.batch([(sequence, 1)]),
        lambda: cache.commit(sequence, 0),
        lambda: cache.rollback(sequence, 0),
        lambda: cache.fork(sequence),
        lambda: cache.checkpoint(sequence, 1),
        lambda: cache.close(sequence),
    ]
    for use in uses:
        with pytest.raises(HylaError, match="is closed"):
            use()
    cache.ledger.check()


def test_running_out_takes_nothing_and_says_the_numbers():
    cache = make(num_pages=3, num_slots=2, num_snapshots=1)
    first, second = cache.open(), cache.open()
    with pytest.raises(CapacityError, match="1 slots are needed and 0 of 2"):
        cache.open()
    with pytest.raises(CapacityError, match="4 pages are needed and 3 of 3"):
        cache.batch([(first, 128), (second, 65)])
    assert cache.ledger.pages.free == 3
    extend(cache, first, range(192))
    pages, checkpoint = keep(cache, first)
    with pytest.raises(CapacityError, match="1 slots are needed and 0 of 2"):
        cache.resume(pages, checkpoint)
    with pytest.raises(CapacityError, match="1 slots are needed and 0 of 2"):
        cache.fork(first)
    cache.close(first)
    cache.close(second)
    assert (cache.ledger.slots.free, cache.ledger.pages.cached, cache.ledger.pages.used) == (2, 3, 0)


def test_committing_less_than_was_written_forgets_the_rest_and_frees_its_pages():
    cache = make()
    sequence = cache.open()
    extend(cache, sequence, list(range(60)))
    batch = cache.batch([(sequence, 3)])
    write(cache.layers[0], batch, [97, 98, 99])
    cache.commit(sequence, 1)
    assert read(cache.layers[0], sequence) == expected([*range(60), 97])
    with pytest.raises(HylaError, match="0 are pending"):
        cache.commit(sequence, 1)


@pytest.mark.parametrize(
    "written,oldest", [(5, 0), (16, 7), (17, 16), (40, 32), (47, 38), (63, 54), (64, 64), (65, 64)]
)
def test_rollback_stops_where_rows_are_gone(written, oldest):
    cache = make()
    sequence = cache.open()
    extend(cache, sequence, list(range(written)))
    assert cache.oldest_length(sequence) == oldest
    if oldest:
        with pytest.raises(HylaError, match=f"length {oldest - 1} cannot be restored after {written}"):
            cache.rollback(sequence, oldest - 1)
    assert sequence.length == written
    cache.rollback(sequence, oldest)
    assert read(cache.layers[0], sequence) == expected(list(range(oldest)))


def test_going_back_twice_counts_from_the_furthest_write():
    cache = make()
    sequence = cache.open()
    extend(cache, sequence, list(range(30)))
    cache.rollback(sequence, 22)
    extend(cache, sequence, [100])
    with pytest.raises(HylaError, match="the oldest is 21"):
        cache.rollback(sequence, 20)


def test_without_recurrent_layers_any_length_can_be_restored():
    cache = Cache([CacheSpec(page_tensors=SPEC.page_tensors)], num_pages=4, num_slots=1)
    sequence = cache.open()
    cache.batch([(sequence, 200)])
    cache.commit(sequence, 200)
    cache.rollback(sequence, 3)
    assert (sequence.length, len(sequence.pages)) == (3, 1)


def test_a_failed_forward_that_closed_a_chunk_cannot_be_repeated():
    cache = make()
    sequence = cache.open()
    extend(cache, sequence, range(60))
    cache.batch([(sequence, 10)])
    with pytest.raises(HylaError, match="cannot be restored"):
        cache.batch([(sequence, 10)])
    cache.close(sequence)
    cache.ledger.check()


def test_a_sequence_stands_only_once_in_a_batch():
    cache = make()
    sequence = cache.open()
    with pytest.raises(HylaError, match="only once"):
        cache.batch([(sequence, 1), (sequence, 1)])


def test_nbytes_counts_every_tensor_with_the_null_row():
    cache = make(num_pages=6, num_slots=3)
    slot = 8 * (1 + 64 + 16 + 7)
    assert cache.nbytes == 8 * 7 * 64 + 4 * slot
    assert make(num_pages=6, num_slots=3, num_snapshots=2).nbytes - cache.nbytes == 3 * 8 * (1 + 7)


def test_a_pool_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one page and one slot"):
        Cache([SPEC], num_pages=0, num_slots=1)


def test_giving_back_what_was_not_handed_out_is_an_error():
    cache = make()
    with pytest.raises(HylaError, match="pages: 2 is given back"):
        cache.ledger.pages.give_back([2])


def test_a_lost_page_is_found():
    cache = make()
    cache.ledger.pages._free.remove(4)
    with pytest.raises(HylaError, match=re.escape("free 5 + used 0 + cached 0 != total 6")):
        cache.ledger.check()


class RandomUse(RuleBasedStateMachine):
    """Any order of operations: the ledger is balanced, and each sequence reads back exactly its own tokens."""

    @initialize()
    def start(self):
        self.cache = make(num_pages=7, num_slots=3, num_snapshots=2)
        self.open, self.kept, self.next_token = [], [], 1

    def pick(self, n):
        return self.open[n % len(self.open)]

    @rule()
    def opens(self):
        if self.cache.ledger.slots.free:
            self.open.append((self.cache.open(), []))
        else:
            with pytest.raises(CapacityError):
                self.cache.open()

    @precondition(lambda self: self.open)
    @rule(n=st.integers(0, 9), count=st.integers(1, 90), dropped=st.integers(0, 9))
    def extends(self, n, count, dropped):
        sequence, tokens = self.pick(n)
        new = list(range(self.next_token, self.next_token + count))
        self.next_token += count
        try:
            batch = self.cache.batch([(sequence, count)])
        except CapacityError:
            return
        write(self.cache.layers[0], batch, new)
        kept = max(count - dropped, 0)
        if sequence.length + kept < self.cache.oldest_length(sequence):
            kept = count
        self.cache.commit(sequence, kept)
        tokens += new[:kept]

    @precondition(lambda self: self.open)
    @rule(n=st.integers(0, 9), steps=st.integers(0, 20))
    def goes_back(self, n, steps):
        sequence, tokens = self.pick(n)
        length = max(sequence.length - steps, 0)
        if length < self.cache.oldest_length(sequence):
            with pytest.raises(HylaError):
                self.cache.rollback(sequence, length)
        else:
            self.cache.rollback(sequence, length)
            del tokens[length:]

    @precondition(lambda self: self.open)
    @rule(n=st.integers(0, 9))
    def forks(self, n):
        sequence, tokens = self.pick(n)
        try:
            self.open.append((self.cache.fork(sequence), list(tokens)))
        except CapacityError:
            return

    @precondition(lambda self: self.open and self.cache.ledger.snapshots.free)
    @rule(n=st.integers(0, 9))
    def is_kept(self, n):
        sequence, tokens = self.pick(n)
        if sequence.length >= 64:
            self.kept.append((*keep(self.cache, sequence), tokens[: sequence.length // 64 * 64]))

    @precondition(lambda self: self.kept)
    @rule(n=st.integers(0, 9))
    def resumes(self, n):
        pages, checkpoint, tokens = self.kept[n % len(self.kept)]
        try:
            self.open.append((self.cache.resume(pages, checkpoint), list(tokens)))
        except CapacityError:
            assert not self.cache.ledger.slots.free

    @precondition(lambda self: self.kept)
    @rule(n=st.integers(0, 9))
    def is_dropped(self, n):
        pages, checkpoint, _ = self.kept.pop(n % len(self.kept))
        self.cache.drop_checkpoint(checkpoint)
        self.cache.ledger.pages.drop(pages)

    @precondition(lambda self: self.open)
    @rule(n=st.integers(0, 9))
    def closes(self, n):
        self.cache.close(self.open.pop(n % len(self.open))[0])

    @invariant()
    def adds_up(self):
        if not hasattr(self, "cache"):
            return
        ledger = self.cache.ledger
        ledger.check()
        assert ledger.slots.used == len(self.open)
        held = {page for sequence, _ in self.open for page in sequence.pages}
        kept = {page for pages, _, _ in self.kept for page in pages}
        assert (ledger.pages.used, ledger.pages.cached) == (len(held), len(kept - held))
        assert (ledger.snapshots.used, ledger.snapshots.cached) == (0, len(self.kept))
        for sequence, tokens in self.open:
            assert sequence.length == len(tokens)
            assert read(self.cache.layers[0], sequence) == expected(tokens)


TestRandomUse = RandomUse.TestCase
TestRandomUse.settings = settings(max_examples=60, stateful_step_count=25)
