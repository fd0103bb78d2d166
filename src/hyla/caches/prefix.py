"""The prefix cache: a radix tree of 64-token nodes over the pool's pages, with checkpoints at chosen nodes.

A node is 64 tokens after its parent's and keeps their KV page. A recurrent (or windowed) layer cannot be taken up from
pages: for that a node may hold a *checkpoint*, the state after its last token. A lookup finds the deepest checkpoint on
the path of a prompt; the tokens after it are computed again. Because a token's result does not depend on how its prefix
was computed, nobody can tell a hit from a miss by the output.

Eviction weighs what an entry saves (the tokens that would have to be computed again without it) against the bytes it
holds and the time since it was last used: the least saved tokens per byte and age go first (the idea of Marconi,
arXiv 2411.19379, section 4.2). Entries that a running sequence holds stay.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence as List

from hyla.caches.pool import Cache
from hyla.caches.sequence import Checkpoint, Sequence
from hyla.caches.tree import Branch, Hit, MissReason, Node, Overflow, Tree, page_key
from hyla.grid import CHUNK

EVICTED_AT_ONCE = 32
"""One part in this many of the pages is freed at once, since finding what to evict walks the tree."""


class PrefixCache:
    """Pages and checkpoints of one pool that outlive the sequences which computed them."""

    def __init__(self, cache: Cache):
        self.cache = cache
        self.needs_checkpoint = cache.has_states or bool(cache.ledger.windows)
        self.tree = Tree()
        self._tick = self._epoch = 0
        self.num_checkpoints = 0
        self.spill: Overflow | None = None
        """Where checkpoints go that are evicted, and come from when a prompt knows more than the tree."""
        self.counts: Counter[str] = Counter()
        """Since the start: lookups, hit_tokens, miss_<reason>, evicted_pages, evicted_checkpoints."""

    # Finding

    def lookup(self, tokens: List[int], salt: str = "") -> Hit:
        """The deepest state that a prompt can be taken up from; at least its last token is left to compute. What only
        the disk has of it is brought in first."""
        self._tick += 1
        hit = self._find(tokens, salt)
        if self.spill is not None and self.spill.fetch(hit, tokens, salt):
            return self._find(tokens, salt)
        return hit

    def _find(self, tokens: List[int], salt: str) -> Hit:
        limit = (len(tokens) - 1) // CHUNK
        node = best = self.tree.root(salt)
        while node.depth < limit:
            child = node.children.get(page_key(tokens, node.depth))
            if child is None:
                break
            node = child
            if node.checkpoint is not None or not self.needs_checkpoint:
                best = node
        for used in best.path():
            used.last_used = self._tick
        return Hit(best, node.depth * CHUNK, self._reason(tokens, limit, node, best))

    def count_use(self, hit: Hit) -> None:
        """Count a lookup whose result a sequence was started with."""
        self.counts["lookups"] += 1
        self.counts["hit_tokens"] += hit.length
        if hit.reason is not None:
            self.counts[f"miss_{hit.reason}"] += 1

    def _reason(self, tokens: List[int], limit: int, node: Node, best: Node) -> MissReason | None:
        if best.depth:
            return None
        if not limit:
            return "too_short"
        if not node.depth:
            child_hash = hash((node.hash, page_key(tokens, 0)))
            return "evicted" if self.tree.has_evicted(child_hash) else "no_prefix"
        return "evicted" if any(known.lost_checkpoint for known in node.path()) else "no_snapshot"

    def start(self, hit: Hit) -> tuple[Sequence, Branch]:
        """A sequence that goes on after the hit. Raises CapacityError when no slot is free."""
        path = hit.node.path()
        sequence = self.cache.resume([node.page for node in path], hit.node.checkpoint)
        return sequence, Branch(hit.node, self._epoch)

    # Keeping

    def extend(self, branch: Branch, sequence: Sequence, tokens: List[int]) -> None:
        """Put the whole pages that a sequence has committed into the tree. Where the tree has the same tokens already,
        the sequence takes the tree's page, whose bits are the same, and gives its own back."""
        if branch.epoch != self._epoch:
            return
        pages, units = sequence.pages, self.cache.ledger.pages
        while (branch.node.depth + 1) * CHUNK <= sequence.length:
            depth = branch.node.depth
            key = page_key(tokens, depth)
            child = branch.node.children.get(key)
            if child is None:
                child = self._grow(branch.node, key, pages[depth])
            elif child.page != pages[depth]:
                units.hold([child.page])
                units.give_back([pages[depth]])
                pages[depth] = child.page
            child.last_used = self._tick
            branch.node = child

    def _grow(self, parent: Node, key: tuple[int, ...], page: int) -> Node:
        """A new child, which keeps a page that somebody holds."""
        self.cache.ledger.pages.keep([page])
        return self.tree.grow(parent, key, page, self._tick)

    def adopt(self, tokens: List[int], salt: str, known: int, pages: List[int], checkpoint: Checkpoint | None) -> None:
        """Put pages, and the checkpoint after them, behind the `known` first pages of a prompt. The caller took them,
        its window pages and its snapshot from the ledger and holds them; now the tree keeps them."""
        ledger, node = self.cache.ledger, self.tree.known(tokens, salt, known)
        for page in pages:
            node = self._grow(node, page_key(tokens, node.depth), page)
        ledger.pages.give_back(pages)
        if checkpoint is None:
            return
        for window, table in checkpoint.window_pages:
            ledger.windows[window].pass_on(page for page in table if page)
        if checkpoint.unit is not None:
            ledger.snapshots.pass_on([checkpoint.unit])
        node.checkpoint, node.lost_checkpoint = checkpoint, False
        self.num_checkpoints += 1

    def checkpoint(self, branch: Branch, sequence: Sequence) -> bool:
        """Keep the state after the sequence's last whole page, at the branch's node. False: nothing to keep, or no room
        for it beside more useful ones."""
        node = branch.node
        if branch.epoch != self._epoch or not self.needs_checkpoint or not node.depth:
            return False
        if node.checkpoint is not None or node.depth != sequence.length // CHUNK:
            return node.checkpoint is not None
        snapshots = self.cache.ledger.snapshots
        if self.cache.has_states and not self.make_room_for_snapshot():
            return False
        with snapshots.taking(int(self.cache.has_states)) as units:
            checkpoint = self.cache.checkpoint(sequence, units[0] if units else None)
        snapshots.pass_on(units)
        node.checkpoint, node.lost_checkpoint = checkpoint, False
        node.last_used = self._tick
        self.num_checkpoints += 1
        return True

    # Letting go

    def make_room(self, count: int, window: int | None = None) -> bool:
        """Evict until `count` pages of a window (None: of the layers that see everything) are free, if it can be."""
        units = self.cache.units_of(window)
        if units.free >= count:
            return True
        if window is not None:
            while units.free < count and self._evict_checkpoint():
                pass
            return units.free >= count
        self._evict_pages(max(count - units.free, units.total // EVICTED_AT_ONCE))
        return units.free >= count

    def make_room_for_snapshot(self) -> bool:
        """Evict until a snapshot is free, if it can be."""
        return bool(self.cache.ledger.snapshots.free) or self._evict_checkpoint()

    def _evict_pages(self, count: int) -> None:
        """Free about `count` pages, leaves first."""
        units = self.cache.ledger.pages
        leaves = [(self._value(node), id(node), node) for node in self.tree.nodes() if self._is_evictable(node)]
        heapq.heapify(leaves)
        target = units.free + count
        while leaves and units.free < target:
            _, _, node = heapq.heappop(leaves)
            parent = node.above
            self._remove(node)
            if self._is_evictable(parent):
                heapq.heappush(leaves, (self._value(parent), id(parent), parent))

    def _is_evictable(self, node: Node) -> bool:
        return node.parent is not None and not node.children and not self.cache.ledger.pages.is_held(node.page)

    def _value(self, node: Node) -> float:
        """Tokens that the node saves per page it holds, by age."""
        if self.needs_checkpoint and node.checkpoint is None:
            return 0.0
        return CHUNK / (1 + self._tick - node.last_used)

    def _evict_checkpoint(self) -> bool:
        """Drop the checkpoint that saves the fewest tokens for its age. False when there is none."""
        kept = [node for node in self.tree.nodes() if node.checkpoint is not None]
        if not kept:
            return False
        self._drop_checkpoint(min(kept, key=lambda node: (self._checkpoint_value(node), node.last_used)))
        return True

    def _checkpoint_value(self, node: Node) -> float:
        saved, above = 1, node.above
        while above.parent is not None and above.checkpoint is None:
            saved, above = saved + 1, above.parent
        return saved * CHUNK / (1 + self._tick - node.last_used)

    def _drop_checkpoint(self, node: Node) -> None:
        if node.checkpoint is None:
            return
        if self.spill is not None:
            self.spill.offer(node)
        self.cache.drop_checkpoint(node.checkpoint)
        node.checkpoint, node.lost_checkpoint = None, True
        self.num_checkpoints -= 1
        self.counts["evicted_checkpoints"] += 1

    def _remove(self, node: Node) -> None:
        """Forget a leaf."""
        if node.checkpoint is not None:
            self._drop_checkpoint(node)
        elif self.spill is not None and not self.needs_checkpoint:
            self.spill.offer(node)
        self.tree.cut(node)
        self.cache.ledger.pages.drop([node.page])
        self.counts["evicted_pages"] += 1

    def clear(self) -> None:
        """Forget everything: the model's weights changed. Running sequences put nothing back."""
        for node in list(self.tree.nodes()):
            if node.checkpoint is not None:
                self.cache.drop_checkpoint(node.checkpoint)
            self.cache.ledger.pages.drop([node.page])
        self.tree.clear()
        self.num_checkpoints = 0
        self._epoch += 1

    def endings(self) -> list[Node]:
        """The nodes that a prompt could be taken up from with all that is kept above them."""
        if self.needs_checkpoint:
            return [node for node in self.tree.nodes() if node.checkpoint is not None]
        return [node for node in self.tree.nodes() if not node.children]

    def status(self) -> dict[str, int]:
        """Numbers as plain data."""
        return {"nodes": self.tree.num_nodes, "checkpoints": self.num_checkpoints, **self.counts}
