"""How much there is in JSON, told from its bytes while they come: before anything is made of them."""

from __future__ import annotations

_OUTSIDE = b'",[{'
_DROPPED = bytes(byte for byte in range(256) if byte not in _OUTSIDE)


class JsonCounter:
    """Counts the values of a JSON text, and those of them that are lists or objects, piece by piece.

    Names are counted with their values. Of a text that is no JSON, what stands before its first mistake is counted
    right, so that no parser makes more of it.

    >>> counter = JsonCounter()
    >>> for piece in (b'{"a": [1, 2, {}], "b,[": "x\\\\', b'", "c": "]\\"["}'):
    ...     counter.add(piece)
    >>> counter.num_containers, counter.num_values
    (3, 7)
    """

    def __init__(self):
        self.num_containers = 0
        self._num_commas = 0
        self._is_in_text = False
        self._kept = b""
        """A backslash at the end of a piece: what it escapes is in the next one."""

    @property
    def num_values(self) -> int:
        """At most this many: every list and object has one more than it has commas, or none."""
        return 1 + self._num_commas + self.num_containers

    def add(self, piece: bytes | bytearray) -> None:
        piece = self._kept + piece
        num_backslashes = len(piece) - len(piece.rstrip(b"\\"))
        self._kept = b"\\" if num_backslashes % 2 else b""
        if self._kept:
            piece = piece[:-1]
        # Backslashes stand in texts only, two of them for one, so that what is left of them hides quotes alone.
        bare = piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _DROPPED)
        texts = bare.split(b'"')
        outside = b"".join(texts[1 if self._is_in_text else 0 :: 2])
        if len(texts) % 2 == 0:
            self._is_in_text = not self._is_in_text
        self._num_commas += outside.count(b",")
        self.num_containers += len(outside) - outside.count(b",")
