"""Documents as pieces of one length, and the bits and bytes of a piece by position.

A token's position is the number of tokens that are read before it, the bos token included where there is one. Buckets
double: 0 to 63, 64 to 127, 128 to 255, ... A bucket goes by its first position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hyla.checkpoints.tokenizer import Tokenizer
from hyla.engine.requests.messages import TokenLogprob
from hyla.train.corpus import Document
from hyla.train.scoring import encode_plain

FIRST_BUCKET = 64


def bucket_of(position: int) -> int:
    """First position of the bucket.

    >>> [bucket_of(position) for position in (0, 63, 64, 127, 128, 300)]
    [0, 0, 64, 64, 128, 256]
    """
    return 0 if position < FIRST_BUCKET else 1 << (position.bit_length() - 1)


@dataclass(frozen=True)
class Piece:
    """Tokens in a row of one document. ids: with the bos token, if there is one; ends: byte of the document behind each
    of them."""

    document: str
    number: int
    ids: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int]:
        return self.document, self.number

    def bytes_by_bucket(self) -> dict[str, int]:
        """Bytes of the predicted tokens, which are all but the first."""
        found: dict[str, int] = {}
        for position in range(1, len(self.ids)):
            name = str(bucket_of(position))
            found[name] = found.get(name, 0) + self.ends[position] - self.ends[position - 1]
        return found

    def bits_by_bucket(self, logprobs: Sequence[TokenLogprob | None]) -> dict[str, float]:
        """logprobs: of each token but the first, which nothing predicts. Summed without rounding, rounded once."""
        nats: dict[str, list[float]] = {}
        for position, one in enumerate(logprobs):
            if one is not None:
                nats.setdefault(str(bucket_of(position)), []).append(one.logprob)
        return {name: -math.fsum(own) / math.log(2) for name, own in nats.items()}


def pieces(document: Document, tokenizer: Tokenizer, length: int) -> Iterator[Piece]:
    """A document's pieces of `length` tokens, one after the other; what is left at its end is too short. Special tokens
    in a text are read as plain text. A character of several tokens counts for the first of them."""
    encoding = encode_plain(tokenizer, document.text)
    bos = tokenizer.bos_token_id
    before = () if bos is None else (bos,)
    own = length - len(before)
    if len(encoding.ids) < own:
        return
    ends = _byte_ends(document.text, [end for _, end in encoding.offsets])
    for number in range(len(encoding.ids) // own):
        first = number * own
        start = ends[first - 1] if first else 0
        yield Piece(
            document.name,
            number,
            (*before, *encoding.ids[first : first + own]),
            (*([start] * len(before)), *ends[first : first + own]),
        )


def _byte_ends(text: str, chars: Sequence[int]) -> list[int]:
    """Bytes before character ends that do not fall."""
    ends, at, total = [], 0, 0
    for char in chars:
        if char > at:
            total += len(text[at:char].encode("utf-8"))
            at = char
        ends.append(total)
    return ends
