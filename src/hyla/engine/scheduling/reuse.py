"""What a generation takes from the prefix cache when it starts, and what it leaves there while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from hyla.caches import Cache
from hyla.caches import Sequence as CachedSequence
from hyla.caches.prefix import PrefixCache
from hyla.caches.tree import Branch, Hit
from hyla.engine.generation import Generation
from hyla.grid import CHUNK

logger = logging.getLogger(__name__)


class PrefixReuse:
    """prefix: None: every prompt is computed whole. snapshot_every: tokens of a prompt from one kept state to the
    next."""

    def __init__(self, cache: Cache, prefix: PrefixCache | None, snapshot_every: int):
        self._cache, self._prefix = cache, prefix
        self._snapshot_every = max(snapshot_every // CHUNK, 1) * CHUNK

    # Taking

    def look_up(self, generation: Generation) -> Hit | None:
        """How much of it is cached; None without a prefix cache."""
        if self._prefix is None:
            return None
        return self._prefix.lookup(generation.skippable_tokens, generation.request.cache_salt)

    def is_being_computed(self, newcomer: Generation, hit: Hit | None, running: Iterable[Generation]) -> bool:
        """Whether somebody is just computing more of this prompt than is cached; then its state will be kept there."""
        if hit is None or hit.length >= (len(newcomer.skippable_tokens) - 1) // CHUNK * CHUNK:
            return False  # there is no more that could be shared
        for generation in running:
            if generation.num_output_tokens or generation.request.cache_salt != newcomer.request.cache_salt:
                continue
            shared = num_shared(generation.tokens, newcomer.skippable_tokens)
            passed = generation.place.length
            if shared > hit.length and shared > passed - CHUNK and generation.num_pending:
                if shared > passed:
                    generation.marks.add(shared)
                if shared > passed or shared in generation.marks:
                    return True
        return False

    def start(self, generation: Generation, hit: Hit | None) -> None:
        """Give a generation its place in the cache, after what is cached of its tokens."""
        if hit is None or self._prefix is None:
            generation.sequence, generation.miss_reason = self._cache.open(), "off"
            generation.num_cached_tokens = 0
            return
        generation.sequence, generation.branch = self._prefix.start(hit)
        if generation.num_cached_tokens is None:
            self._prefix.count_use(hit)
            generation.num_cached_tokens = min(hit.length, generation.num_prompt_tokens)
            generation.miss_reason = "off" if generation.computes_all else hit.reason
        generation.marks = self._marks(generation, hit)

    def _marks(self, generation: Generation, hit: Hit) -> set[int]:
        """Where states are worth keeping: the end of the prompt, where it leaves what others share, every so often,
        and where the client asks for it."""
        end = len(generation.tokens) // CHUNK * CHUNK
        requested = [place // CHUNK * CHUNK for place in generation.request.snapshot_at]
        every = range(self._snapshot_every, end, self._snapshot_every)
        return {mark for mark in (end, hit.num_known_tokens, *every, *requested) if hit.length < mark <= end}

    # Leaving

    def keep(self, generation: Generation) -> None:
        """Put what a generation has newly committed into the prefix cache, and its state where it is marked."""
        if self._prefix is None or generation.branch is None:
            return
        sequence = generation.place
        self._prefix.extend(generation.branch, sequence, generation.tokens)
        boundary = sequence.length // CHUNK * CHUNK
        if boundary in generation.marks:
            self._checkpoint(self._prefix, generation.branch, sequence)
        if generation.marks:
            generation.marks = {mark for mark in generation.marks if mark > boundary}

    def keep_last(self, generation: Generation) -> None:
        """Keep the state that a generation leaves with, for those who go on from there."""
        if self._prefix is not None and generation.branch is not None and not generation.place.pending:
            self._checkpoint(self._prefix, generation.branch, generation.place)

    @staticmethod
    def _checkpoint(prefix: PrefixCache, branch: Branch, sequence: CachedSequence) -> None:
        """Keep the state where it stands, if it can be kept."""
        try:
            prefix.checkpoint(branch, sequence)
        except Exception:  # who comes later computes it again
            logger.exception("a state could not be kept")


def num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens, a multiple of 64, that two prompts begin with, at least one of the second's left over."""
    shared, most = 0, min(len(one), len(other) - 1) // CHUNK * CHUNK
    while shared < most and one[shared : shared + CHUNK] == other[shared : shared + CHUNK]:
        shared += CHUNK
    return shared
