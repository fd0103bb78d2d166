"""The prefix cache over the recording mixer: what a hit brings back is what the tokens alone would have left."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from recording_mixer import SPEC, expected, read, write

from hyla.caches import Cache
from hyla.caches.prefix import PrefixCache
from hyla.layers.protocol import CacheSpec, TensorSpec

WINDOW = 100
WINDOWED = CacheSpec(page_tensors=(TensorSpec("near", (64,), torch.int64, "kv"),), window=WINDOW)


def make(num_pages=12, num_slots=3, num_snapshots=4, specs=(SPEC,)):
    cache = Cache(specs, num_pages=num_pages, num_slots=num_slots, num_snapshots=num_snapshots)
    return cache, PrefixCache(cache)


def compute(cache, prefix, tokens, salt="", piece=64):
    """A sequence of all tokens, taken up from the cache; returns (sequence, branch, cached tokens, reason)."""
    hit = prefix.lookup(tokens, salt)
    prefix.count_use(hit)
    sequence, branch = prefix.start(hit)
    extend(cache, prefix, sequence, branch, tokens, piece)
    return sequence, branch, hit.length, hit.reason


def extend(cache, prefix, sequence, branch, tokens, piece=64):
    while sequence.length < len(tokens):
        count = min(piece, len(tokens) - sequence.length)
        batch = cache.batch([(sequence, count)])
        write(cache.layers[0], batch, tokens[sequence.length : sequence.length + count])
        cache.commit(sequence, count)
        prefix.extend(branch, sequence, tokens)


def test_a_prompt_goes_on_after_the_deepest_checkpoint_of_its_prefix():
    cache, prefix = make()
    first = list(range(150))
    sequence, branch, cached, reason = compute(cache, prefix, first)
    assert (cached, reason) == (0, "no_prefix")
    assert prefix.checkpoint(branch, sequence)
    cache.close(sequence)
    assert cache.ledger.pages.cached == 2 and cache.ledger.snapshots.cached == 1
    longer = [*first[:140], *range(1000, 1100)]
    again, _, cached, reason = compute(cache, prefix, longer)
    assert (cached, reason) == (128, None)
    assert read(cache.layers[0], again) == expected(longer)
    cache.close(again)
    cache.ledger.check()


def test_a_miss_says_why():
    cache, prefix = make()
    tokens = list(range(200))
    sequence, branch, _, _ = compute(cache, prefix, tokens)
    assert prefix.lookup(tokens).reason == "no_snapshot" and prefix.lookup(tokens).num_known_tokens == 192
    assert prefix.checkpoint(branch, sequence)
    cache.close(sequence)
    assert prefix.lookup(tokens).reason is None
    assert prefix.lookup(tokens, salt="other").reason == "no_prefix"
    assert prefix.lookup(tokens[:64]).reason == "too_short"
    assert prefix.lookup(tokens[:192]).reason == "no_snapshot"
    assert prefix.make_room(12)
    assert prefix.lookup(tokens).reason == "evicted"
    cache.ledger.check()
    assert cache.ledger.pages.free == 12 and cache.ledger.snapshots.free == 4


def test_salts_that_nothing_is_kept_for_are_forgotten():
    cache, prefix = make(num_pages=4)
    for n in range(20):
        sequence, branch, _, _ = compute(cache, prefix, list(range(130)), salt=f"tenant {n}")
        assert prefix.checkpoint(branch, sequence)
        other = prefix.start(prefix.lookup(list(range(9)), salt=f"tenant {n}"))
        assert other[1].node is branch.node.parent.parent
        cache.close(sequence)
        cache.close(other[0])
        assert prefix.make_room(4)
    del sequence, branch, other
    assert not prefix.tree.roots and not prefix.tree.grown
    cache.ledger.check()


def test_sequences_with_the_same_tokens_share_pages_while_they_run():
    cache, prefix = make()
    tokens = list(range(130))
    one, *_ = compute(cache, prefix, tokens)
    two, *_ = compute(cache, prefix, tokens, piece=17)
    assert one.pages[:2] == two.pages[:2] and one.pages[2] != two.pages[2]
    assert cache.ledger.pages.used == 4
    cache.close(one)
    assert read(cache.layers[0], two) == expected(tokens)
    cache.close(two)
    cache.ledger.check()


def test_full_attention_needs_no_checkpoint():
    cache, prefix = make(specs=(CacheSpec(page_tensors=SPEC.page_tensors),))
    hit = prefix.lookup(list(range(200)))
    sequence, branch = prefix.start(hit)
    cache.batch([(sequence, 200)])
    cache.commit(sequence, 200)
    prefix.extend(branch, sequence, list(range(200)))
    cache.close(sequence)
    assert prefix.lookup(list(range(200))).length == 192
    assert prefix.lookup(list(range(192))).length == 128


def test_pages_behind_a_window_are_freed_and_a_checkpoint_keeps_those_it_needs():
    cache, prefix = make(specs=(SPEC, WINDOWED), num_pages=12)
    tokens = list(range(400))
    sequence, branch, _, _ = compute(cache, prefix, tokens)
    near = cache.ledger.windows[WINDOW]
    # Rows from 384 on see back to 285, which is in page 4.
    assert [bool(page) for page in sequence.tables[WINDOW]] == [False] * 4 + [True] * 3
    assert near.used == 3
    assert prefix.checkpoint(branch, sequence)
    cache.close(sequence)
    assert (near.used, near.cached) == (0, 2)
    again, _, cached, _ = compute(cache, prefix, tokens)
    assert cached == 384 and again.tables[WINDOW][:6] == [0, 0, 0, 0, *sequence_pages(prefix, tokens)]
    cache.close(again)
    assert prefix.make_room(12, WINDOW) and near.free == 12
    cache.ledger.check()


def sequence_pages(prefix, tokens):
    ((_, table),) = prefix.lookup(tokens).node.checkpoint.window_pages
    return [page for page in table if page]


def test_rejected_rows_that_only_a_copy_can_undo_are_undone():
    for start in range(40, 64):
        cache, _ = make()
        sequence = cache.open()
        tokens = list(range(start))
        batch = cache.batch([(sequence, start)])
        write(cache.layers[0], batch, tokens)
        cache.commit(sequence, start)
        drafts = [500 + n for n in range(24)]
        assert cache.needs_backup(sequence, 1, 23)
        batch = cache.batch([(sequence, 24)], certain=[1])
        write(cache.layers[0], batch, drafts)
        cache.commit(sequence, 2)
        length = sequence.length
        assert length in (start, start + 2)
        assert read(cache.layers[0], sequence) == expected((tokens + drafts)[:length])
        assert cache.ledger.slots.used == 1
        cache.close(sequence)
        cache.ledger.check()


def test_a_fork_goes_its_own_way():
    cache, _ = make()
    sequence = cache.open()
    tokens = list(range(100))
    write(cache.layers[0], cache.batch([(sequence, 100)]), tokens)
    cache.commit(sequence, 100)
    other = cache.fork(sequence)
    assert other.pages[0] == sequence.pages[0] and other.pages[1] != sequence.pages[1]
    for one, new in ((sequence, [1, 2]), (other, [3, 4, 5])):
        write(cache.layers[0], cache.batch([(one, len(new))]), new)
        cache.commit(one, len(new))
    assert read(cache.layers[0], sequence) == expected([*tokens, 1, 2])
    assert read(cache.layers[0], other) == expected([*tokens, 3, 4, 5])


def test_going_back_into_a_shared_page_copies_it():
    cache, prefix = make(specs=(CacheSpec(page_tensors=SPEC.page_tensors),))
    sequence, branch = prefix.start(prefix.lookup(list(range(64))))
    cache.batch([(sequence, 64)])
    cache.commit(sequence, 64)
    prefix.extend(branch, sequence, list(range(64)))
    (page,) = sequence.pages
    cache.rollback(sequence, 10)
    assert sequence.pages != [page] and cache.ledger.pages.cached == 1


class RandomPrefixes(RuleBasedStateMachine):
    """Any order of prompts, ends, checkpoints and evictions: balanced, and every sequence reads its own tokens."""

    @initialize()
    def start(self):
        self.cache, self.prefix = make(num_pages=14, num_slots=4, num_snapshots=3, specs=(SPEC, WINDOWED))
        self.running = []

    @rule(
        length=st.integers(1, 330),
        fork_at=st.integers(0, 330),
        kind=st.integers(0, 2),
        piece=st.sampled_from([64, 90]),
        salt=st.sampled_from(["", "", "a", "b"]),
    )
    def prompt(self, length, fork_at, kind, piece, salt):
        tokens = [n if n < fork_at else n + 1000 * kind for n in range(length)]
        needed = -(-length // 64)
        if not self.cache.ledger.slots.free:
            return
        if not all([self.prefix.make_room(needed), self.prefix.make_room(needed, WINDOW)]):
            return
        sequence, branch, _, _ = compute(self.cache, self.prefix, tokens, salt, piece)
        self.running.append((sequence, branch, tokens))

    @precondition(lambda self: self.running)
    @rule(n=st.integers(0, 9))
    def keeps(self, n):
        sequence, branch, _ = self.running[n % len(self.running)]
        self.prefix.checkpoint(branch, sequence)

    @precondition(lambda self: self.running)
    @rule(n=st.integers(0, 9))
    def ends(self, n):
        self.cache.close(self.running.pop(n % len(self.running))[0])

    @rule(count=st.integers(1, 14))
    def evicts(self, count):
        self.prefix.make_room(count)

    @rule()
    def forgets(self):
        self.prefix.clear()

    @invariant()
    def adds_up(self):
        if not hasattr(self, "cache"):
            return
        ledger = self.cache.ledger
        ledger.check()
        assert ledger.slots.used == len(self.running)
        assert ledger.pages.used == len({page for sequence, _, _ in self.running for page in sequence.pages})
        assert ledger.snapshots.cached == self.prefix.num_checkpoints and ledger.snapshots.used == 0
        nodes = list(self.prefix.tree.nodes())
        assert len(nodes) == self.prefix.tree.num_nodes
        self.roots_are_those_that_somebody_needs(nodes)
        for sequence, _, tokens in self.running:
            assert read(self.cache.layers[0], sequence) == expected(tokens)

    def roots_are_those_that_somebody_needs(self, nodes):
        grown = {node.parent for node in nodes if node.depth == 1}
        assert set(self.prefix.tree.grown) == grown
        now = [branch for _, branch, _ in self.running if branch.epoch == self.prefix._epoch]
        stood_at = {branch.node for branch in now if not branch.node.depth}
        assert set(self.prefix.tree.roots.values()) == grown | stood_at


TestRandomPrefixes = RandomPrefixes.TestCase
TestRandomPrefixes.settings = settings(max_examples=60, stateful_step_count=20)
