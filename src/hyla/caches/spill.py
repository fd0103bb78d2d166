"""The prefix cache's second home: checkpoints that leave the memory go to a folder, and come back when asked for.

A *segment* is a checkpoint with the pages of its path that the folder does not have yet. It is found by a digest of
salt and tokens, and loaded only when its fingerprint, its checksum and its tokens are the right ones; then a prompt
goes on from it exactly as it would have gone on from the memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from collections.abc import Sequence as List

import torch

from hyla.caches.digests import prefix_digests
from hyla.caches.pool import Cache
from hyla.caches.prefix import PrefixCache
from hyla.caches.sequence import Checkpoint
from hyla.caches.spill_file import Fingerprint, Segment
from hyla.caches.spill_store import Pending, SpillStore
from hyla.caches.transfer import (
    copy_out,
    copy_pages_in,
    copy_snapshot_in,
    layout,
    layout_bytes,
    num_kept_window_pages,
)
from hyla.caches.tree import Hit, Node, digest_of
from hyla.grid import CHUNK

Tensors = dict[str, torch.Tensor]


class Spill:
    """Moves checkpoints between a prefix cache and a store.

    fingerprint: what equal bits depend on; asked for when it is first needed, and again after `forget_fingerprint`.
    min_tokens: a segment that saves fewer is not worth its file, nor its loading.
    """

    def __init__(
        self, prefix: PrefixCache, store: SpillStore, fingerprint: Callable[[], Fingerprint], *, min_tokens: int
    ):
        self.store, self.min_tokens = store, min_tokens
        # The tree owns this: a reference back would keep a whole pool until the next garbage collection.
        self._prefix = weakref.ref(prefix)
        self._fingerprint = fingerprint
        self._is_open = False

    @property
    def prefix(self) -> PrefixCache:
        prefix = self._prefix()
        assert prefix is not None, "the tree owns this"
        return prefix

    @property
    def cache(self) -> Cache:
        return self.prefix.cache

    def open(self) -> None:
        """Read what the folder has, unless that is known."""
        if not self._is_open:
            self.store.open(self._fingerprint())
            self._is_open = True

    def forget_fingerprint(self) -> None:
        """The weights change: what was spilled with the old ones is not found any more."""
        self._is_open = False

    # Out

    def offer(self, node: Node) -> None:
        """Before a node's checkpoint is forgotten (or its page, where pages are all the state): write it, if it saves
        enough beside the nearest one above it, in memory or on the disk."""
        self.open()
        if self._saved_tokens(node, beside_memory=True) >= self.min_tokens:
            self._put(node, wait=False)

    def spill_all(self) -> None:
        """Write what is worth it and not on the disk yet; returns when it is there."""
        for node in sorted(self.prefix.endings(), key=lambda node: node.depth):
            self.open()
            if self._saved_tokens(node, beside_memory=False) >= self.min_tokens:
                self._put(node, wait=True)
        self.store.flush()

    def _saved_tokens(self, node: Node, *, beside_memory: bool) -> int:
        """Tokens between the node and the nearest state above it; none when it is on the disk itself."""
        if self.store.has(digest_of(node)):
            return 0
        above = node.above
        while above.parent is not None and not self.store.has(digest_of(above)):
            if beside_memory and above.checkpoint is not None:
                break
            above = above.above
        return (node.depth - above.depth) * CHUNK

    def _put(self, node: Node, *, wait: bool) -> None:
        path = node.path()
        first = max((above.depth for above in path[:-1] if self.store.has(digest_of(above))), default=0)
        new_nodes = path[first:]
        if not self.store.has_room(layout_bytes(layout(self.cache, len(new_nodes), node.depth)), wait=wait):
            return
        before = tuple(digest_of(above) for above in (path[0].above, *path[:first]))
        self.store.put(
            Pending(
                segment=Segment(before[0], first, tuple(map(digest_of, new_nodes)), self.store.tag),
                before=before,
                fingerprint=self.store.fingerprint,
                tokens=[token for node in new_nodes for token in node.key],
                tensors=copy_out(self.cache, [node.page for node in new_nodes], node.checkpoint),
            )
        )

    # In

    def fetch(self, hit: Hit, tokens: List[int], salt: str) -> bool:
        """Bring in what the folder knows of a prompt beyond a hit. Whether there was something to bring."""
        limit = (len(tokens) - 1) // CHUNK
        shallowest = hit.node.depth + max(-(-self.min_tokens // CHUNK), 1)
        if limit < shallowest:
            return False
        self.open()
        if self.store.is_empty:
            return False
        digests = prefix_digests(tokens, salt, limit)
        depths = [depth for depth in range(limit, shallowest - 1, -1) if self.store.find(digests[depth])]
        return any(self._load(depth, digests, tokens, salt) for depth in depths)

    def _load(self, depth: int, digests: List[bytes], tokens: List[int], salt: str) -> bool:
        """Put a prefix of `depth` pages and the state after it into the tree."""
        segment = self.store.find(digests[depth])
        path = self.prefix.tree.known(tokens, salt, depth).path()
        known = len(path)
        segments = self.store.path(digests, depth, min(known, depth - 1))
        if segment is None:
            return False  # another prefix's loading has just refused it
        if segments is None:
            if self.store.find(digests[depth]) is segment:
                self.store.refuse(segment, "missing_parent", "what it builds on is not in the folder")
            return False
        # What is on the path already must not be evicted for the rest of it.
        held = [node.page for node in path]
        self.cache.ledger.pages.hold(held)
        try:
            if not self._make_room(depth, depth - known):
                self.store.counts["no_room"] += 1
                return False
            read = [(segment, self._read(segment, depth, digests, tokens)) for segment in segments]
            whole = [(segment, tensors) for segment, tensors in read if tensors is not None]
            if len(whole) < len(read):
                return False
            self._fill(whole, depth, known, tokens, salt)
        finally:
            self.cache.ledger.pages.give_back(held)
        self.store.counts["loaded"] += 1
        self.store.counts["loaded_tokens"] += depth * CHUNK
        return True

    def _make_room(self, depth: int, num_pages: int) -> bool:
        ledger = self.cache.ledger
        if ledger.pages.free + ledger.pages.cached < num_pages or not self.prefix.make_room(num_pages):
            return False
        windows = ((window, num_kept_window_pages(depth, window)) for window in ledger.windows)
        if not all(self.prefix.make_room(count, window) for window, count in windows):
            return False
        return not self.cache.has_states or self.prefix.make_room_for_snapshot()

    def _read(self, segment: Segment, depth: int, digests: List[bytes], tokens: List[int]) -> Tensors | None:
        """A segment's tensors, if it is what this prompt needs."""
        tensors = self.store.read(segment)
        if tensors is None:
            return None
        end = min(segment.end, depth)
        wanted = list(tokens[segment.first * CHUNK : end * CHUNK])
        expected = layout(self.cache, len(segment.digests), segment.end)
        found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items() if name != "tokens"}
        if segment.root != digests[0] or tensors["tokens"][: len(wanted)].tolist() != wanted:
            self.store.refuse(segment, "other_tokens", "another prompt has the same digest")
        elif found != expected:
            self.store.refuse(segment, "layout", "its tensors are not those of this cache")
        else:
            return tensors
        return None

    def _fill(self, read: List[tuple[Segment, Tensors]], depth: int, known: int, tokens: List[int], salt: str) -> None:
        cache, ledger = self.cache, self.cache.ledger
        pages = ledger.pages.take(depth - known)
        for segment, tensors in read:
            first, end = max(segment.first, known), min(segment.end, depth)
            if first < end:
                copy_pages_in(cache, tensors, pages[first - known : end - known], first - segment.first)
        checkpoint = self._checkpoint(read[0][1], depth) if self.prefix.needs_checkpoint else None
        self.prefix.adopt(tokens, salt, known, pages, checkpoint)

    def _checkpoint(self, tensors: Tensors, depth: int) -> Checkpoint:
        """A checkpoint from stored tensors; the caller holds its units."""
        cache, tables, unit = self.cache, [], None
        for window, units in cache.ledger.windows.items():
            pages = units.take(num_kept_window_pages(depth, window))
            copy_pages_in(cache, tensors, pages, 0, window)
            tables.append((window, (*[0] * (depth - len(pages)), *pages)))
        if cache.has_states:
            (unit,) = cache.ledger.snapshots.take(1)
            copy_snapshot_in(cache, tensors, unit)
        return Checkpoint(depth * CHUNK, unit, tuple(tables))

    def status(self) -> dict:
        """Numbers as plain data."""
        return self.store.status()
