"""Any order of prompts, checkpoints, evictions, restarts and lost files: every sequence reads its own tokens."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from recording_mixer import SPEC, expected, read, write

from hyla.caches import Cache
from hyla.caches.digests import prefix_digests, root_digest
from hyla.caches.page_tables import first_window_page
from hyla.caches.prefix import PrefixCache
from hyla.caches.spill import Spill
from hyla.caches.spill_file import SUFFIX
from hyla.caches.spill_store import SpillStore
from hyla.layers.protocol import CacheSpec, TensorSpec

WINDOW = 100
WINDOWED = CacheSpec(page_tensors=(TensorSpec("near", (64, 3), torch.int64, "kv"),), window=WINDOW)
PAGED = CacheSpec(page_tensors=SPEC.page_tensors)


def make(folder, specs=(SPEC, WINDOWED), num_pages=14, weights="one", most_bytes=1 << 30):
    cache = Cache(specs, num_pages=num_pages, num_slots=4, num_snapshots=3)
    prefix = PrefixCache(cache)
    store = SpillStore(folder, most_bytes, has_inner=not prefix.needs_checkpoint)
    prefix.spill = Spill(prefix, store, lambda: {"weights": weights}, min_tokens=64)
    return cache, prefix


def compute(cache, prefix, tokens, salt="", piece=64):
    """(sequence, branch, cached tokens)"""
    hit = prefix.lookup(tokens, salt)
    sequence, branch = prefix.start(hit)
    while sequence.length < len(tokens):
        count = min(piece, len(tokens) - sequence.length)
        new = tokens[sequence.length : sequence.length + count]
        batch = cache.batch([(sequence, count)])
        if len(cache.specs[0].slot_tensors):
            write(cache.layers[0], batch, new)
        if len(cache.specs) > 1:
            for position, token in enumerate(new, start=sequence.length):
                page = sequence.tables[WINDOW][position // 64]
                cache.layers[1]["near"][page, position % 64] = token
        cache.commit(sequence, count)
        prefix.extend(branch, sequence, tokens)
    return sequence, branch, hit.length


def check_reads(cache, sequence, tokens):
    assert read(cache.layers[0], sequence) == expected(tokens)
    first = first_window_page(len(tokens), WINDOW)
    for place, page in enumerate(sequence.tables[WINDOW][first:], start=first):
        seen = cache.layers[1]["near"][page, :, 2].tolist()[: len(tokens) - 64 * place]
        assert seen == tokens[64 * place : 64 * place + 64]


def spilled(folder, tokens, **options):
    """A cache that has written a prompt and its state to the folder."""
    cache, prefix = make(folder, **options)
    sequence, branch, _ = compute(cache, prefix, tokens)
    prefix.checkpoint(branch, sequence)
    cache.close(sequence)
    prefix.spill.spill_all()
    return cache, prefix


def test_another_pool_goes_on_from_what_one_has_written(tmp_path):
    tokens = list(range(400))
    spilled(tmp_path, tokens)
    cache, prefix = make(tmp_path)
    sequence, _, cached = compute(cache, prefix, [*tokens[:390], 7, 8, 9])
    assert cached == 384
    check_reads(cache, sequence, [*tokens[:390], 7, 8, 9])
    cache.close(sequence)
    cache.ledger.check()
    assert cache.ledger.pages.cached == 6 and cache.ledger.snapshots.cached == 1
    assert cache.ledger.windows[WINDOW].cached == 2


def test_loading_evicts_what_is_less_useful_but_not_its_own_beginning(tmp_path):
    long = list(range(500))
    spilled(tmp_path, long)
    cache, prefix = make(tmp_path, num_pages=8)
    for start, length in ((5000, 200), (0, 140)):
        sequence, branch, _ = compute(cache, prefix, list(range(start, start + length)))
        prefix.checkpoint(branch, sequence)
        cache.close(sequence)
    assert prefix.lookup(long).length == 448
    assert prefix.tree.known(long, "", 7).depth == 7 and prefix.tree.known(list(range(5000, 5200)), "", 3).depth < 3
    cache.ledger.check()


def test_pages_that_a_running_sequence_shares_are_not_read_again(tmp_path):
    tokens = list(range(400))
    spilled(tmp_path, tokens)
    cache, prefix = make(tmp_path)
    running, _, _ = compute(cache, prefix, tokens[:140], piece=70)
    assert cache.ledger.pages.used == 3
    assert prefix.lookup(tokens).length == 384
    assert cache.ledger.pages.used == 3 and cache.ledger.pages.cached == 4
    check_reads(cache, running, tokens[:140])


def test_a_prompt_is_looked_for_with_its_last_token_left_to_compute(tmp_path):
    spilled(tmp_path, list(range(192)))
    _, prefix = make(tmp_path)
    assert prefix.lookup(list(range(192))).length == 0
    assert prefix.lookup(list(range(193))).length == 192


@pytest.mark.parametrize("length", [1, 63, 64])
def test_a_prompt_without_a_whole_page_never_asks_the_disk(tmp_path, length):
    spilled(tmp_path, list(range(192)))
    cache, prefix = make(tmp_path)
    assert prefix.lookup(list(range(length))).reason == "too_short"
    assert cache.ledger.pages.free == 14 and prefix.spill.store.fingerprint == {}


def test_digests_tell_prefixes_salts_and_splits_apart():
    tokens = list(range(200))
    one, other = prefix_digests(tokens, "", 3), prefix_digests(tokens, "a", 3)
    assert one[0] == root_digest("") and len({*one, *other}) == 8
    assert prefix_digests([*tokens[:128], -1, *tokens[129:]], "", 3)[:3] == one[:3]
    assert prefix_digests([*tokens[:128], -1, *tokens[129:]], "", 3)[3] != one[3]


def test_whatever_byte_of_a_header_changes_the_file_is_refused_and_the_next_pool_starts(tmp_path):
    tokens = list(range(130))
    spilled(tmp_path, tokens)
    file, *_ = tmp_path.glob(f"*{SUFFIX}")
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for place in range(8 + size):
        value = b".9[}\x00"[place % 5]
        if whole[place] == value:
            continue
        file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        cache, prefix = make(tmp_path)
        sequence, _, cached = compute(cache, prefix, tokens)
        assert cached == 0
        check_reads(cache, sequence, tokens)


@pytest.mark.parametrize("first", ["1", "2", "9"])
def test_a_header_that_tells_other_pages_than_it_has_is_refused(tmp_path, first):
    tokens = list(range(130))
    spilled(tmp_path, tokens)
    (file,) = tmp_path.glob(f"*{SUFFIX}")
    file.write_bytes(file.read_bytes().replace(b'"first":"0"', f'"first":"{first}"'.encode()))
    cache, prefix = make(tmp_path)
    sequence, _, cached = compute(cache, prefix, tokens)
    assert cached == 0 and prefix.spill.store.refused["unreadable"] == 1
    check_reads(cache, sequence, tokens)


def test_two_pools_that_write_and_remove_at_once_leave_only_whole_files(tmp_path):
    pools = [make(tmp_path, most_bytes=25_000) for _ in range(2)]
    for n in range(12):
        for kind, (cache, prefix) in enumerate(pools):
            tokens = [1000 * (n // 2) + (5000 if n % 2 and kind else 0) + i for i in range(200)]
            sequence, branch, _ = compute(cache, prefix, tokens)
            prefix.checkpoint(branch, sequence)
            cache.close(sequence)
            assert prefix.make_room(14)
    for cache, prefix in pools:
        prefix.spill.store.flush()
        assert prefix.spill.store.counts["failed"] == 0
        cache.ledger.check()
    assert sum(prefix.spill.store.counts["removed"] for _, prefix in pools) > 0
    _, prefix = make(tmp_path)
    prefix.spill.open()
    store = prefix.spill.store
    segments = [store.find(digest) for digest in list(store._index)]
    assert len(segments) == len(list(tmp_path.iterdir())) >= 2
    assert all(store.read(segment) is not None for segment in segments) and not store.refused


class RandomSpills(RuleBasedStateMachine):
    """Like `RandomPrefixes`, with a folder, restarts with it, and files that are lost or damaged."""

    @initialize()
    def start(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.running = []
        self.cache, self.prefix = make(self.folder)

    def teardown(self):
        if hasattr(self, "temporary"):
            self.prefix.spill.store.flush()
            self.temporary.cleanup()

    @rule(
        length=st.sampled_from([100, 140, 200, 270, 330]),
        fork_at=st.sampled_from([0, 70, 150, 330]),
        salt=st.sampled_from(["", "", "a"]),
        stays=st.booleans(),
    )
    def prompt(self, length, fork_at, salt, stays):
        tokens = [n if n < fork_at else n + 1000 for n in range(length)]
        needed = -(-length // 64)
        if not self.cache.ledger.slots.free:
            return
        if not all([self.prefix.make_room(needed), self.prefix.make_room(needed, WINDOW)]):
            return
        self.running.append((*compute(self.cache, self.prefix, tokens, salt)[:2], tokens))
        if not stays:
            check_reads(self.cache, self.running[-1][0], tokens)
            self.ends_with_a_checkpoint(len(self.running) - 1)

    @precondition(lambda self: self.running)
    @rule(n=st.integers(0, 9))
    def ends_with_a_checkpoint(self, n):
        sequence, branch, _ = self.running.pop(n % len(self.running))
        self.prefix.checkpoint(branch, sequence)
        self.cache.close(sequence)

    @rule(count=st.integers(4, 14))
    def evicts(self, count):
        self.prefix.make_room(count)

    @rule()
    def forgets(self):
        self.prefix.clear()

    @rule(limit=st.sampled_from([1 << 30, 20_000]))
    def restarts(self, limit):
        for sequence, _, _ in self.running:
            self.cache.close(sequence)
        self.running = []
        self.prefix.spill.spill_all()
        self.cache, self.prefix = make(self.folder, most_bytes=limit)

    @precondition(lambda self: any(self.folder.iterdir()))
    @rule(n=st.integers(0, 9), damages=st.booleans())
    def a_file_is_lost(self, n, damages):
        files = sorted(self.folder.glob(f"*{SUFFIX}"))
        if damages:
            blob = files[n % len(files)].read_bytes()
            files[n % len(files)].write_bytes(blob[:-8] + bytes(8 - n % 2))
        else:
            files[n % len(files)].unlink()

    @invariant()
    def adds_up(self):
        if not hasattr(self, "cache"):
            return
        self.prefix.spill.store.flush()
        ledger = self.cache.ledger
        ledger.check()
        assert ledger.pages.used == len({page for sequence, _, _ in self.running for page in sequence.pages})
        assert ledger.snapshots.cached == self.prefix.num_checkpoints and ledger.snapshots.used == 0
        assert len(list(self.prefix.tree.nodes())) == self.prefix.tree.num_nodes
        assert self.prefix.spill.store.counts["failed"] == 0
        for sequence, _, tokens in self.running:
            check_reads(self.cache, sequence, tokens)


TestRandomSpills = RandomSpills.TestCase
TestRandomSpills.settings = settings(max_examples=60, stateful_step_count=25)
