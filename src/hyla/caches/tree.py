"""The radix tree of the prefix cache: 64-token nodes by salt, without the pool. It holds nothing; it knows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from typing import Literal, Protocol
from weakref import WeakValueDictionary

from hyla.caches.digests import page_digest, root_digest
from hyla.caches.sequence import Checkpoint
from hyla.grid import CHUNK

MissReason = Literal["off", "too_short", "no_prefix", "no_snapshot", "evicted"]
"""Why no token of a prompt was cached: the cache is off; the prompt has no whole page beside its last token; its first
page is unknown; its pages are known but no state on their path; or what there was has been evicted."""

REMEMBERED_EVICTIONS = 1 << 16
"""Evicted prefixes whose hashes are remembered, so that a miss can say so."""


@dataclass(eq=False)
class Node:
    """64 tokens of some prompts."""

    key: tuple[int, ...]
    page: int
    parent: Node | None
    depth: int
    """Pages from the root, its own included."""
    hash: int
    last_used: int = 0
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None
    lost_checkpoint: bool = False
    """It had one that was evicted."""
    digest: bytes | None = None
    """Names its prefix on the disk; computed when it is asked for (`digest_of`)."""

    @property
    def above(self) -> Node:
        """The parent of a node that is no root."""
        assert self.parent is not None, "a root has no parent"
        return self.parent

    def path(self) -> list[Node]:
        """Nodes from the root's child to this one."""
        nodes, node = [], self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


@dataclass(frozen=True)
class Hit:
    """What a lookup found."""

    node: Node
    """Where to go on; the root for a miss."""
    num_known_tokens: int
    """Tokens of the prompt whose pages are known; more than `length` where a checkpoint is missing."""
    reason: MissReason | None
    """None for a hit."""

    @property
    def length(self) -> int:
        """Cached tokens."""
        return self.node.depth * CHUNK


@dataclass(eq=False)
class Branch:
    """Where a running sequence stands in the tree: its whole pages up to `node` are the tree's."""

    node: Node
    epoch: int


class Overflow(Protocol):
    """Where checkpoints go that are evicted, and come from (`caches.spill`)."""

    def offer(self, node: Node) -> None:
        """A node's checkpoint, or its page where pages are all the state, is about to be forgotten."""
        ...

    def fetch(self, hit: Hit, tokens: List[int], salt: str) -> bool:
        """Bring in what is known of a prompt beyond a hit. Whether there was something to bring."""
        ...


def page_key(tokens: List[int], depth: int) -> tuple[int, ...]:
    """The tokens of a prompt's page."""
    return tuple(tokens[depth * CHUNK : (depth + 1) * CHUNK])


class Tree:
    """Nodes by salt and tokens."""

    def __init__(self):
        self.roots: WeakValueDictionary[str, Node] = WeakValueDictionary()
        """By salt, as long as somebody stands there."""
        self.grown: dict[Node, None] = {}
        """Roots that have children."""
        self._evicted: OrderedDict[int, None] = OrderedDict()
        self.num_nodes = 0

    def root(self, salt: str) -> Node:
        root = self.roots.get(salt)
        if root is None:
            root = self.roots[salt] = Node((), 0, None, 0, hash(salt), digest=root_digest(salt))
        return root

    def known(self, tokens: List[int], salt: str, most: int) -> Node:
        """The node of the first pages of a prompt, at most so many, as far as the tree has them."""
        node = self.root(salt)
        while node.depth < most and (child := node.children.get(page_key(tokens, node.depth))) is not None:
            node = child
        return node

    def grow(self, parent: Node, key: tuple[int, ...], page: int, tick: int) -> Node:
        """A new child."""
        child = Node(key, page, parent, parent.depth + 1, hash((parent.hash, key)), last_used=tick)
        parent.children[key] = child
        if parent.parent is None:
            self.grown[parent] = None
        self._evicted.pop(child.hash, None)
        self.num_nodes += 1
        return child

    def cut(self, leaf: Node) -> None:
        """Forget a leaf, but not that there was one."""
        parent = leaf.above
        del parent.children[leaf.key]
        if parent.parent is None and not parent.children:
            del self.grown[parent]
        self._evicted[leaf.hash] = None
        if len(self._evicted) > REMEMBERED_EVICTIONS:
            self._evicted.popitem(last=False)
        self.num_nodes -= 1

    def has_evicted(self, node_hash: int) -> bool:
        """Whether a node of this hash was cut, as far as is remembered."""
        return node_hash in self._evicted

    def clear(self) -> None:
        """Forget everything."""
        self.roots.clear()
        self.grown.clear()
        self._evicted.clear()
        self.num_nodes = 0

    def nodes(self) -> Iterator[Node]:
        """All nodes but the roots."""
        waiting = [child for root in self.grown for child in root.children.values()]
        while waiting:
            node = waiting.pop()
            waiting += node.children.values()
            yield node


def digest_of(node: Node) -> bytes:
    """Of the prefix that a node ends."""
    missing = []
    while node.digest is None:
        missing.append(node)
        node = node.above
    digest = node.digest
    for child in reversed(missing):
        digest = child.digest = page_digest(digest, child.key)
    return digest
