"""Names of token prefixes that hold beyond one process: a chain of SHA-256 over a salt and pages of 64 tokens."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence as List

from hyla.grid import CHUNK


def root_digest(salt: str) -> bytes:
    """Of the empty prefix of a tenant; the salt itself is stored nowhere."""
    return hashlib.sha256(b"hyla prefix " + salt.encode("utf-8", "surrogatepass")).digest()


def page_digest(before: bytes, page: List[int]) -> bytes:
    """Of a prefix that goes on with one page of tokens."""
    return hashlib.sha256(before + array("q", page).tobytes()).digest()


def prefix_digests(tokens: List[int], salt: str, num_pages: int) -> list[bytes]:
    """Of the first 0, 1, ... num_pages pages of a prompt."""
    digests = [root_digest(salt)]
    for start in range(0, num_pages * CHUNK, CHUNK):
        digests.append(page_digest(digests[-1], tokens[start : start + CHUNK]))
    return digests
