"""One spilled segment as a safetensors file: what it holds, how it appears whole or not at all, why it is refused.

The checksum is SHA-256 of the whole file, taken while its own place in the header is zeros. Nothing is unpickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save

from hyla.grid import CHUNK

FORMAT = "hyla spilled prefix 1"
SUFFIX = ".hyla-prefix.safetensors"
PARTIAL = ".partial-"
"""How the names of files begin that are being written."""

BLANK = "0" * 64
"""Stands for the checksum while it is computed."""

MOST_HEADER_BYTES = 1 << 24

Fingerprint = Mapping[str, str | int]
"""What equal bits depend on, by name."""


class Refused(Exception):
    """A file is not loaded. The reason is one word or two, to be counted by."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Segment:
    """Some pages at the end of a prefix, and the state after them."""

    root: bytes
    """Digest of the salt."""
    first: int
    """Pages of the prefix before it."""
    digests: tuple[bytes, ...]
    """Of the prefix after each of its pages."""
    tag: str
    """Short name of its fingerprint."""

    @property
    def end(self) -> int:
        """Pages of the prefix, its own included."""
        return self.first + len(self.digests)

    @property
    def name(self) -> str:
        return f"{self.digests[-1].hex()[:40]}-{self.tag}{SUFFIX}"


def tag_of(fingerprint: Fingerprint) -> str:
    """A short name, so that two engines with different weights do not overwrite each other's files."""
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()[:12]


def encode(
    segment: Segment, fingerprint: Fingerprint, tokens: list[int], tensors: dict[str, torch.Tensor]
) -> bytearray:
    """The bytes of a segment's file. tokens: of its pages."""
    metadata = {
        "format": FORMAT,
        "fingerprint": json.dumps(dict(fingerprint), sort_keys=True),
        "salt": segment.root.hex(),
        "first": str(segment.first),
        "digests": " ".join(digest.hex() for digest in segment.digests),
        "checksum": BLANK,
    }
    blob = bytearray(save({**tensors, "tokens": torch.tensor(tokens, dtype=torch.int64)}, metadata))
    start = 8 + int.from_bytes(blob[:8], "little")
    checksum = hashlib.sha256(blob).hexdigest()
    place = blob.index(f'"checksum":"{BLANK}"'.encode(), 0, start) + len('"checksum":"')
    blob[place : place + len(BLANK)] = checksum.encode()
    return blob


def write_whole(folder: Path, name: str, blob: bytes | bytearray) -> None:
    """Put a file in place: it appears whole or not at all, and replaces an older one. Raises OSError.

    The partial file is locked for as long as its writer lives, so that `remove_leftovers` knows whose it is.
    """
    partial = folder / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with open(partial, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
            os.rename(partial, folder / name)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_leftovers(folder: Path) -> int:
    """Remove the partial files of writers that are gone; returns how many."""
    count = 0
    for partial in folder.glob(f"{PARTIAL}*"):
        try:
            with open(partial, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
                count += 1
        except OSError:  # somebody is writing it, or it is gone
            continue
    return count


def _parse(head: bytes | bytearray, num_bytes: int) -> dict:
    """The JSON header of a file whose first bytes are `head`."""
    size = int.from_bytes(head[:8], "little")
    if num_bytes < 8 or size > min(MOST_HEADER_BYTES, num_bytes - 8):
        raise Refused("truncated", f"{num_bytes} bytes cannot hold the header")
    try:
        header = json.loads(head[8 : 8 + size])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        missing = 8 + int(size + max(ends)) - num_bytes
    except Exception as error:  # damaged JSON can be anything, and so can what it breaks
        raise Refused("unreadable", f"no safetensors header: {error}") from error
    if missing > 0:
        raise Refused("truncated", f"the last {missing} bytes are missing")
    return header


def _segment(header: dict, fingerprint: Fingerprint) -> Segment:
    """The segment that a header describes. Raises Refused for another format or fingerprint."""
    try:
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise Refused("format", f"its format is {metadata['format']!r}, not {FORMAT!r}")
        stored = json.loads(metadata["fingerprint"])
        for name in (*fingerprint, *stored):
            if stored.get(name) != fingerprint.get(name):
                raise Refused(
                    f"other {name}", f"{name} is {stored.get(name)!r} there and {fingerprint.get(name)!r} here"
                )
        digests = tuple(bytes.fromhex(text) for text in metadata["digests"].split())
        segment = Segment(bytes.fromhex(metadata["salt"]), int(metadata["first"]), digests, tag_of(fingerprint))
        if not digests or segment.first < 0 or len(metadata["checksum"]) != len(BLANK):
            raise ValueError("it describes no pages")
    except Refused:
        raise
    except Exception as error:  # as above
        raise Refused("unreadable", f"its metadata are damaged: {error!r}") from error
    return segment


def read_header(file: Path, fingerprint: Fingerprint) -> Segment:
    """What a file says that it holds. Raises Refused, and OSError where it cannot be read."""
    with open(file, "rb") as opened:
        num_bytes = os.fstat(opened.fileno()).st_size
        head = opened.read(8)
        head += opened.read(min(int.from_bytes(head, "little"), MOST_HEADER_BYTES))
    segment = _segment(_parse(head, num_bytes), fingerprint)
    if segment.name != file.name:
        raise Refused("renamed", f"it holds what belongs into {segment.name}")
    return segment


def read_whole(file: Path, segment: Segment, fingerprint: Fingerprint) -> dict[str, torch.Tensor]:
    """The tensors of a file, "tokens" [64 * pages] among them, once everything about it was checked."""
    blob = bytearray(file.read_bytes())
    header = _parse(blob, len(blob))
    if _segment(header, fingerprint) != segment:
        raise Refused("renamed", "it holds another segment than it did")
    checksum = header["__metadata__"]["checksum"].encode()
    start = 8 + int.from_bytes(blob[:8], "little")
    place = blob.find(b'"checksum":"' + checksum + b'"', 0, start) + len('"checksum":"')
    blob[place : place + len(BLANK)] = BLANK.encode()
    if hashlib.sha256(blob).hexdigest().encode() != checksum:
        raise Refused("checksum", "its bytes are not those that were written")
    try:
        tensors = load(bytes(blob))
    except Exception as error:  # the library's own, and whatever its checks miss
        raise Refused("unreadable", str(error)) from error
    tokens = tensors.get("tokens")
    if tokens is None or tokens.dtype != torch.int64 or tokens.shape != (CHUNK * len(segment.digests),):
        raise Refused("layout", "it has not the tokens of its pages")
    return tensors
