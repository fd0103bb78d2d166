"""Pieces of documents through the engine: each is kept as it is scored, and none is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from hyla.checkpoints import Tokenizer
from hyla.engine import Engine, SamplingParams
from hyla.engine.requests.messages import Completion, Request
from hyla.errors import ConfigError
from hyla.evals.asking import completed
from hyla.evals.positions.pieces import FIRST_BUCKET, Piece, pieces
from hyla.evals.results import ITEMS_FILE, begin, model_record
from hyla.models.config import Config, Count
from hyla.train.corpus import Document
from hyla.train.files import append_lines, kept_lines

FORMAT = 1
PARAMS = SamplingParams(max_tokens=0, prompt_logprobs=0, temperature=0.0, seed=0)


class PositionsRequest(Config):
    """What is scored."""

    length: Annotated[int, Field(ge=FIRST_BUCKET)] = 4096
    """Tokens of a piece, the bos token included where there is one; a power of two, so that every bucket is full.
    Documents that are shorter are left out. Bits at a position do not depend on it: a long one has all of a shorter.
    """
    pieces: Count = 64
    """Most pieces: the first one of each document, then the second ones, and so on."""

    @field_validator("length")
    @classmethod
    def _fills_buckets(cls, length):
        if length & (length - 1):
            raise ValueError(f"{length} is no power of two; give e.g. {1 << (length.bit_length() - 1)}")
        return length


@dataclass(frozen=True)
class ScoredPiece:
    """A line of items.jsonl. bits and bytes: of the tokens in each bucket of positions, by its first position."""

    document: str
    number: int
    tokens: int
    seconds: float
    bits: dict[str, float]
    bytes: dict[str, int]

    @property
    def key(self) -> tuple[str, int]:
        return self.document, self.number


def chosen_pieces(documents: Sequence[Document], tokenizer: Tokenizer, request: PositionsRequest) -> list[Piece]:
    """The pieces of a request. Raises ConfigError where no document is long enough, or two have one name."""
    by_document = {document.name: list(pieces(document, tokenizer, request.length)) for document in documents}
    if len(by_document) < len(documents):
        raise ConfigError("a text was given twice; name each file once")
    found = [own[n] for n in range(max(map(len, by_document.values()))) for own in by_document.values() if n < len(own)]
    if not found:
        raise ConfigError(f"none of {len(documents)} texts has {request.length} tokens; give longer ones, or --length")
    return found[: request.pieces]


class Positions:
    """An eval of one model in a folder, begun or gone on with.

    Raises ConfigError for a length over the model's context, and for a folder with results of another request, text,
    model or version.
    """

    def __init__(self, folder: Path, request: PositionsRequest, engine: Engine, chosen: Sequence[Piece]):
        self.folder, self.engine, self.chosen = folder, engine, chosen
        if request.length > engine.context_len:
            raise ConfigError(
                f"a length of {request.length} tokens is over the model's context of {engine.context_len}; give a "
                "shorter one"
            )
        ids = json.dumps([(*piece.key, piece.ids) for piece in chosen])
        record = {
            "format": FORMAT,
            "request": request.model_dump(mode="json"),
            "text": hashlib.sha256(ids.encode()).hexdigest()[:16],
        }
        begin(folder, record | model_record(engine.model))
        lines = [ScoredPiece(**json.loads(line)) for line in kept_lines(folder / ITEMS_FILE)]
        self.scored = {line.key: line for line in lines}

    def run(
        self, on_piece: Callable[[ScoredPiece], None] = lambda line: None, on_step: Callable[[], None] = lambda: None
    ) -> list[ScoredPiece]:
        """Score every piece that is not scored yet; all lines, in the order of pieces. on_step: called before each step
        of the engine. Raises RequestError for a piece that the engine fails on."""
        missing = (piece for piece in self.chosen if piece.key not in self.scored)
        jobs = ((piece, Request(f"{piece.document} {piece.number}", piece.ids, PARAMS)) for piece in missing)
        for done, seconds in completed(self.engine, lambda: next(jobs, None), on_step):
            lines = [scored(piece, completion, seconds) for piece, completion in done]
            append_lines(self.folder / ITEMS_FILE, map(asdict, lines))
            self.scored |= {line.key: line for line in lines}
            for line in lines:
                on_piece(line)
        return [self.scored[piece.key] for piece in self.chosen]


def scored(piece: Piece, completion: Completion, seconds: float) -> ScoredPiece:
    """A finished piece."""
    bits = piece.bits_by_bucket(completion.prompt_logprobs or ())
    return ScoredPiece(piece.document, piece.number, len(piece.ids), seconds, bits, piece.bytes_by_bucket())
