"""Spilled segments: an index of the headers in a folder, and a background writer.

Several engines may share a folder: files appear whole by rename, are never changed, and a file that another engine has
removed is a miss. Everything here may fail without any request noticing: it is counted, and said once.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path

import torch

from hyla.caches.spill_file import (
    Fingerprint,
    Refused,
    Segment,
    encode,
    read_header,
    read_whole,
    tag_of,
    write_whole,
)
from hyla.caches.spill_folder import SpillFolder

logger = logging.getLogger(__name__)

MOST_PENDING_BYTES = 256 << 20
"""Copies that wait for the writer; one of any size may wait alone."""

COUNTS = (
    "leftovers",
    "spilled",
    "spilled_bytes",
    "dropped",
    "failed",
    "too_large",
    "outdated",
    "removed",
    "loaded",
    "loaded_tokens",
    "no_room",
)


@dataclass(frozen=True, eq=False)
class Pending:
    """A segment on its way to the disk."""

    segment: Segment
    before: tuple[bytes, ...]
    """Digests of the prefixes before it, from the empty one on."""
    fingerprint: Fingerprint
    tokens: list[int]
    tensors: dict[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class SpillStore:
    """Segments in a folder. One thread puts, finds and reads; a thread of the store's own writes.

    most_bytes: of all segments in the folder, whoever wrote them. has_inner: a prefix may also end inside a segment
    (a model whose pages are all its state).
    Raises ConfigError when the folder cannot be used.
    """

    def __init__(self, folder: str | Path, most_bytes: int, *, has_inner: bool = False):
        self._files = SpillFolder(folder, most_bytes)
        self.folder, self.has_inner = self._files.folder, has_inner
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        """Since the start: leftovers (of killed writers, removed), spilled, spilled_bytes, dropped (the writer was too
        far behind), failed, too_large, outdated (its weights, or what it builds on, are gone), removed, loaded,
        loaded_tokens, no_room."""
        self.refused: Counter[str] = Counter()
        """By reason."""
        self.counts["leftovers"] = self._files.num_leftovers
        self.fingerprint: Fingerprint = {}
        self.tag = ""
        self._index: dict[bytes, Segment] = {}
        self._said: set[str] = set()
        self._changed = threading.Condition()
        self._queue: deque[Pending] = deque()
        self._pending_bytes = 0
        self._pending: set[tuple[str, bytes]] = set()
        self._writer: threading.Thread | None = None

    def open(self, fingerprint: Fingerprint) -> None:
        """Know what the folder has for these weights and this arithmetic; forget what it had for others."""
        with self._changed:
            self.fingerprint, self.tag = dict(fingerprint), tag_of(fingerprint)
            self._index.clear()
        for file in self._files.segments():
            try:
                segment = read_header(file, fingerprint)
            except Refused as refusal:
                self._refuse(file.name, refusal)
            except OSError as error:
                self._refuse(file.name, Refused("unreadable", str(error)))
            else:
                self._add(segment)

    def _add(self, segment: Segment) -> None:
        with self._changed:
            for digest in self._ends(segment):
                self._index[digest] = segment

    def _ends(self, segment: Segment) -> tuple[bytes, ...]:
        """The prefixes that can be taken up from a segment."""
        return segment.digests if self.has_inner else segment.digests[-1:]

    def _forget(self, segment: Segment) -> None:
        with self._changed:
            for digest in self._ends(segment):
                if self._index.get(digest) == segment:
                    del self._index[digest]

    # Finding

    @property
    def is_empty(self) -> bool:
        return not self._index

    def find(self, digest: bytes) -> Segment | None:
        """The segment on the disk from which a prefix can be taken up."""
        return self._index.get(digest)

    def path(self, digests: List[bytes], depth: int, known: int = 0) -> list[Segment] | None:
        """The segments with the pages from `known` to `depth` of a prefix, deepest first; None: one is missing,
        or was refused just now.

        digests: of the prefix after 0, 1, ... pages.
        """
        found = []
        while depth > known:
            segment = self.find(digests[depth])
            if segment is None:
                return None
            place = depth - segment.first - 1
            if not 0 <= place < len(segment.digests) or segment.digests[place] != digests[depth]:
                self.refuse(segment, "unreadable", "its header tells other pages than its digests")
                return None
            found.append(segment)
            depth = segment.first
        return found

    def has(self, digest: bytes) -> bool:
        """Whether it is on the disk or on its way there."""
        with self._changed:
            return digest in self._index or (self.tag, digest) in self._pending

    def read(self, segment: Segment) -> dict[str, torch.Tensor] | None:
        """Its tensors, checked; None, counted, when they are not to be had: it is not found any more then."""
        try:
            tensors = read_whole(self.folder / segment.name, segment, self.fingerprint)
        except FileNotFoundError:
            self.refuse(segment, "gone", "somebody has removed it")
        except Refused as refusal:
            self.refuse(segment, refusal.reason, str(refusal))
        except OSError as error:
            self.refuse(segment, "unreadable", str(error))
        else:
            self._files.touch(segment.name)
            return tensors
        return None

    def refuse(self, segment: Segment, reason: str, detail: str) -> None:
        """Never find a segment again."""
        self._forget(segment)
        self._refuse(segment.name, Refused(reason, detail))

    def _refuse(self, name: str, refusal: Refused) -> None:
        self.refused[refusal.reason] += 1
        if refusal.reason not in self._said:
            self._said.add(refusal.reason)
            logger.warning(
                "%s in %s is not loaded (%s): %s; others of this kind are only counted",
                name,
                self.folder,
                refusal.reason,
                refusal,
            )

    # Putting

    def has_room(self, num_bytes: int, *, wait: bool) -> bool:
        """Whether a segment of this size may be put now. wait: until it may. False is counted as dropped."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._fits(num_bytes))
            if self._fits(num_bytes):
                return True
        self.counts["dropped"] += 1
        return False

    def _fits(self, num_bytes: int) -> bool:
        return not self._queue or self._pending_bytes + num_bytes <= MOST_PENDING_BYTES

    def put(self, pending: Pending) -> None:
        """Write a segment soon. The tensors must not change any more."""
        with self._changed:
            self._queue.append(pending)
            self._pending_bytes += pending.nbytes
            self._pending.update((pending.segment.tag, digest) for digest in self._ends(pending.segment))
            if self._writer is None:  # not a daemon: the process may end only between two files
                self._writer = threading.Thread(target=self._write_all, name="hyla-spill")
                self._writer.start()

    def flush(self) -> None:
        """Wait until everything that was put is written, or has failed."""
        writer = self._writer
        if writer is not None:  # it ends when nothing is left
            writer.join()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._writer = None
                    return
                pending = self._queue[0]
            try:
                self._write(pending)
            except OSError as error:
                self.counts["failed"] += 1
                logger.warning("%s could not be spilled to %s: %s", pending.segment.name, self.folder, error)
            except Exception:  # the writer must outlive whatever one segment brings
                self.counts["failed"] += 1
                logger.exception("%s could not be spilled to %s", pending.segment.name, self.folder)
            with self._changed:
                self._queue.popleft()
                self._pending_bytes -= pending.nbytes
                self._pending.difference_update((pending.segment.tag, d) for d in self._ends(pending.segment))
                self._changed.notify_all()

    def _write(self, pending: Pending) -> None:
        segment = pending.segment
        with self._changed:
            builds_on = self.path(pending.before, segment.first)
            if segment.tag != self.tag or builds_on is None:
                self.counts["outdated"] += 1
                return
        names = [ancestor.name for ancestor in builds_on]
        blob = encode(segment, pending.fingerprint, pending.tokens, pending.tensors)
        removed = self._files.make_room(len(blob), {*names, segment.name})
        if removed is None:
            self.counts["too_large"] += 1
            return
        for name in removed:
            self.counts["removed"] += 1
            self._forget_name(name)
        write_whole(self.folder, segment.name, blob)
        for name in names:  # what it builds on outlives it in the order of removal
            self._files.touch(name)
        self.counts["spilled"] += 1
        self.counts["spilled_bytes"] += len(blob)
        with self._changed:
            if segment.tag == self.tag:
                self._add(segment)

    def _forget_name(self, name: str) -> None:
        with self._changed:
            for segment in {segment for segment in self._index.values() if segment.name == name}:
                self._forget(segment)

    def status(self) -> dict:
        """Numbers as plain data."""
        with self._changed:
            segments = len({segment.name for segment in self._index.values()})
            pending = len(self._queue)
        return {"segments": segments, "pending": pending, **self.counts, "refused": dict(self.refused)}
