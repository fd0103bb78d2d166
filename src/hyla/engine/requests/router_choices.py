"""Which experts the routers of a model chose for the rows of a text: plain data, for a file or another process."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass

HEADER = struct.Struct("<IIIIB")


@dataclass(frozen=True)
class RouterChoices:
    """A row is a token that was read; row r of the text that prompt and answer are has number r. The last token of an
    answer was not read, so it has none."""

    first: int
    """Rows before this one are not here: their states came from a cache, and nobody chose."""
    num_rows: int
    num_layers: int
    """Mixtures of experts of the trunk, in its order."""
    num_chosen: int
    """Experts of a row in each, the one with the largest score first."""
    itemsize: int
    """Bytes of a number: 1, or 2 where there are more than 255 experts."""
    data: bytes
    """[num_rows, num_layers, num_chosen] unsigned, little-endian. A row of the largest numbers that there are is not
    known: it was cached after others had been computed."""

    @property
    def text(self) -> str:
        """All of it, compressed, for a line of JSON."""
        header = HEADER.pack(self.first, self.num_rows, self.num_layers, self.num_chosen, self.itemsize)
        return base64.b85encode(zlib.compress(header + self.data)).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> RouterChoices:
        """What `text` was made of. Raises ValueError for anything else."""
        try:
            whole = zlib.decompress(base64.b85decode(text))
            first, num_rows, num_layers, num_chosen, itemsize = HEADER.unpack_from(whole)
        except (zlib.error, struct.error) as error:
            raise ValueError(f"these are no router choices: {error}") from None
        made = cls(first, num_rows, num_layers, num_chosen, itemsize, whole[HEADER.size :])
        if len(made.data) != made.num_rows * made.num_layers * made.num_chosen * made.itemsize:
            raise ValueError(f"these router choices have {len(made.data)} bytes for {made.num_rows} rows")
        return made
