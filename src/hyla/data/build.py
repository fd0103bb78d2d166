"""Building a token store: pieces of the input are encoded apart from each other, then put together in their order.

A killed build goes on from the pieces that it finished. The same input, tokenizer and options give the same bytes,
however many workers there are and however often it was killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from hyla.checkpoints.opening import open_checkpoint
from hyla.checkpoints.tokenizer import Tokenizer, folder_tokenizer
from hyla.data.encoding import Encoded, Encoder
from hyla.data.records import PIECE_BYTES, Damaged, Fields, Part, Piece, Record, input_files, pieces_of, read_piece
from hyla.data.store import FORMAT, SPLITS, STORE_FILE, TOKENIZER_FOLDER, Store, dtype_name, open_store
from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json, write_json
from hyla.models.config import Config
from hyla.whole_files import partial_name

PLAN_FILE, PIECES_FOLDER = "plan.json", "pieces"
DIFFERENCES = {
    "request": "was asked for otherwise",
    "sources": "was begun with other files, or older ones",
    "tokenizer": "was begun with another tokenizer",
}
"""What another plan says of a folder, by key."""
NAMED_DAMAGE = 100
"""Damaged records that store.json names; all are counted."""
READ_TOGETHER = 4096
"""Records of a piece that are held at once."""
COPY_BYTES = 16 << 20


class BuildRequest(Config):
    """What a store is made of. A folder keeps its first request; another one needs another folder."""

    inputs: tuple[str, ...]
    """Files and folders, absolute: text, .jsonl / .ndjson, .parquet."""
    tokenizer: str
    """Model or tokenizer folder, or .gguf file, with the tokenizer whose ids are stored, absolute."""
    text_field: str = "text"
    """Key of a JSON line, or column of a table, that holds a document."""
    messages_field: str = "messages"
    """The same for conversations."""
    tools_field: str = "tools"
    """The same for the tools of a conversation; records may lack it."""
    is_chat: bool = False
    """Read conversations, written by the tokenizer's chat template; the answers are what is learnt."""
    heldout_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Expected share of documents that training never sees, chosen by a hash of what they say: equal ones stay
    together."""
    on_damaged: Literal["skip", "stop"] = "skip"
    """Leave damaged records out, named and counted, or end the build at the first."""

    @property
    def fields(self) -> Fields:
        return Fields(self.text_field, self.messages_field, self.tools_field, self.is_chat)


@dataclass(frozen=True)
class Progress:
    """How far a build is, after each piece."""

    pieces: int
    of: int
    tokens: int
    damaged: int


def build_store(
    folder: Path,
    request: BuildRequest,
    *,
    workers: int = 1,
    piece_bytes: int = PIECE_BYTES,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Store:
    """Build the store in `folder`, go on with it, or open it when it is finished.

    workers: processes that encode; 1: this one. Raises ConfigError for another request, changed input or, with
    on_damaged "stop", a damaged record; CheckpointError for what the disk refuses.
    """
    with _writing(folder):
        plan = _plan(folder, request, piece_bytes)
        if (folder / STORE_FILE).exists():
            return open_store(folder)
        (folder / PIECES_FOLDER).mkdir(exist_ok=True)
        pieces = [Piece(piece["kind"], tuple(Part(**part) for part in piece["parts"])) for piece in plan["pieces"]]
        done = {number for number in range(len(pieces)) if _piece_file(folder, number).exists()}
        totals = Totals(len(pieces))
        for number in sorted(done):
            totals.add(read_json(_piece_file(folder, number)), on_progress)
        left = [(number, piece) for number, piece in enumerate(pieces) if number not in done]
        for number in _encoded(folder, request, left, workers):
            totals.add(read_json(_piece_file(folder, number)), on_progress)
        _join(folder, request, plan["tokenizer"], len(pieces))
    return open_store(folder)


class Totals:
    """What the finished pieces hold."""

    def __init__(self, pieces: int):
        self.pieces, self.done, self.tokens, self.damaged = pieces, 0, 0, 0

    def add(self, found: dict, tell: Callable[[Progress], None]) -> None:
        self.done += 1
        self.tokens += sum(found["splits"][split]["tokens"] for split in SPLITS)
        self.damaged += found["num_damaged"]
        tell(Progress(self.done, self.pieces, self.tokens, self.damaged))


@contextmanager
def _writing(folder: Path):
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder}: {error.strerror or error}; free some space there, then give the same command "
            "again: what is finished stays"
        ) from error


def _plan(folder: Path, request: BuildRequest, piece_bytes: int) -> dict:
    """The folder's plan, written now if it has none. Raises ConfigError where it is another request's."""
    files = input_files([Path(path) for path in request.inputs])
    stats = [(str(file), file.stat()) for file in files]
    sources = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    tokenizer = open_tokenizer(Path(request.tokenizer))
    wanted = {"request": request.model_dump(mode="json"), "sources": sources, "tokenizer": tokenizer_digest(tokenizer)}
    if (folder / PLAN_FILE).exists():
        plan = read_json(folder / PLAN_FILE, most_bytes=1 << 30)
        for key, what in (
            ("request", "was asked for otherwise"),
            ("sources", "was begun with other files, or older ones"),
        ):
            if plan.get(key) != wanted[key]:
                raise ConfigError(f"the store in {folder} {what}; choose another --out, or delete that folder")
        return plan
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no token store; choose another --out")
    Encoder(tokenizer, is_chat=request.is_chat)  # what it lacks is told now
    pieces = [
        {"kind": piece.kind, "parts": [asdict(part) for part in piece.parts]} for piece in pieces_of(files, piece_bytes)
    ]
    (folder / TOKENIZER_FOLDER).mkdir(parents=True)
    tokenizer.save(folder / TOKENIZER_FOLDER)
    plan = {**wanted, "pieces": pieces}
    write_json(folder / PLAN_FILE, plan)
    return plan


def open_tokenizer(path: Path) -> Tokenizer:
    """Of a folder, with or without a model, or of a GGUF file. Raises CheckpointError."""
    return folder_tokenizer(path) if path.is_dir() else open_checkpoint(path).tokenizer()


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Of what decides about ids."""
    sources = tokenizer.chat_template.sources if tokenizer.chat_template is not None else None
    parts = (tokenizer.backend.to_str(), *(json.dumps(part, sort_keys=True) for part in (tokenizer.special, sources)))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _piece_file(folder: Path, number: int, part: str = "json") -> Path:
    return folder / PIECES_FOLDER / f"{number:06d}.{part}"


def _encoded(folder: Path, request: BuildRequest, left: Sequence[tuple[int, Piece]], workers: int) -> Iterable[int]:
    """Encode pieces; their numbers as they are finished."""
    if workers == 1 or len(left) < 2:
        for number, piece in left:
            encode_piece(folder, request, number, piece)
            yield number
        return
    # Each worker has its core: the tokenizer's own threads would fight for them.
    with ProcessPoolExecutor(min(workers, len(left)), get_context("spawn"), _one_thread) as pool:
        waiting = [pool.submit(encode_piece, folder, request, number, piece) for number, piece in left]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@cache
def _encoder(folder: str, is_chat: bool) -> Encoder:
    return Encoder(folder_tokenizer(Path(folder)), is_chat=is_chat)


def encode_piece(folder: Path, request: BuildRequest, number: int, piece: Piece) -> int:
    """Write one piece's ids; its json comes last, so that a piece with one is whole. Returns its number."""
    encoder = _encoder(str(folder / TOKENIZER_FOLDER), request.is_chat)
    dtype = np.dtype(dtype_name(encoder.tokenizer.vocab_size)).newbyteorder("<")
    parts = {split: PieceSplit(folder, number, split, dtype, request.is_chat) for split in SPLITS}
    damaged = []
    with _all_open(parts.values()):
        for found in _documents(encoder, read_piece(piece, request.fields)):
            if isinstance(found, Damaged):
                if request.on_damaged == "stop":
                    raise ConfigError(f"{found.place} is damaged: {found.reason}; mend it, or skip such records")
                damaged.append(found)
            else:
                parts["heldout" if is_heldout(found.record, request.heldout_share) else "train"].add(found)
    record = {
        "splits": {split: {"tokens": part.tokens, "documents": part.documents} for split, part in parts.items()},
        "num_damaged": len(damaged),
        "damaged": [asdict(one) for one in damaged[:NAMED_DAMAGE]],
    }
    write_json(_piece_file(folder, number), record)
    return number


def _documents(encoder: Encoder, records: Iterable[Record | Damaged]) -> Iterable[Encoded | Damaged]:
    held: list[Record] = []
    for record in records:
        if isinstance(record, Damaged):
            yield record
            continue
        held.append(record)
        if len(held) == READ_TOGETHER:
            yield from encoder.encode(held)
            held = []
    yield from encoder.encode(held)


def is_heldout(record: Record, share: float) -> bool:
    """Whether a document is held out: by its content, so that copies of it are on the same side."""
    content = record.text if record.messages is None else json.dumps(record.messages, sort_keys=True)
    digest = hashlib.sha256((content or "").encode("utf-8", errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class PieceSplit:
    """The files of one split of a piece, being written."""

    def __init__(self, folder: Path, number: int, split: str, dtype: np.dtype, is_chat: bool):
        self.dtype, self.tokens, self.documents = dtype, 0, 0
        names = ("tokens", "ends", *(("learnt",) if is_chat else ()))
        self.files = {name: _piece_file(folder, number, f"{split}.{name}").open("wb") for name in names}

    def add(self, found: Encoded) -> None:
        self.files["tokens"].write(np.asarray(found.ids, dtype=self.dtype).tobytes())
        self.tokens += len(found.ids)
        self.documents += 1
        self.files["ends"].write(np.asarray([self.tokens], dtype="<i8").tobytes())
        if found.is_learnt is not None:
            self.files["learnt"].write(np.asarray(found.is_learnt, dtype=np.uint8).tobytes())


@contextmanager
def _all_open(parts: Iterable[PieceSplit]):
    """Close all files in the end, on the disk where nothing failed. Each may fail: a close writes what is left."""
    files = [file for part in parts for file in part.files.values()]
    with ExitStack() as closing:
        for file in files:
            closing.callback(file.close)
        yield
        for file in files:
            file.flush()
            os.fsync(file.fileno())


def _join(folder: Path, request: BuildRequest, tokenizer: str, pieces: int) -> None:
    """Put the pieces together, write store.json, and let the pieces go."""
    vocab_size = folder_tokenizer(folder / TOKENIZER_FOLDER).vocab_size
    records = [read_json(_piece_file(folder, number)) for number in range(pieces)]
    digest, splits = hashlib.sha256(), {}
    for split in SPLITS:
        counts = [record["splits"][split] for record in records]
        digests = [_join_plain(folder, pieces, f"{split}.tokens"), _join_ends(folder, split, counts)]
        if request.is_chat:
            digests.append(_join_plain(folder, pieces, f"{split}.learnt"))
        digest.update(b"".join(digests))
        splits[split] = {key: sum(count[key] for count in counts) for key in ("tokens", "documents")}
    if not splits["train"]["documents"]:
        raise ConfigError(f"no document is left to train on in {', '.join(request.inputs)}: {_why_none(records)}")
    write_json(
        folder / STORE_FILE,
        {
            "format": FORMAT,
            "digest": digest.hexdigest()[:16],
            "dtype": dtype_name(vocab_size),
            "vocab_size": vocab_size,
            "tokenizer": tokenizer,
            "is_chat": request.is_chat,
            "splits": splits,
            "num_damaged": sum(record["num_damaged"] for record in records),
            "damaged": [one for record in records for one in record["damaged"]][:NAMED_DAMAGE],
            "request": request.model_dump(mode="json"),
        },
    )
    shutil.rmtree(folder / PIECES_FOLDER, ignore_errors=True)


def _why_none(records: Sequence[dict]) -> str:
    first = next((one for record in records for one in record["damaged"]), None)
    return "they are empty" if first is None else f"for example, {first['place']} is damaged: {first['reason']}"


def _join_plain(folder: Path, pieces: int, name: str) -> bytes:
    """One file of all pieces' files; its digest."""
    digest, partial = hashlib.sha256(), partial_name(folder / name)
    with partial.open("wb") as out:
        for number in range(pieces):
            with _piece_file(folder, number, name).open("rb") as file:
                while block := file.read(COPY_BYTES):
                    digest.update(block)
                    out.write(block)
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, folder / name)
    return digest.digest()


def _join_ends(folder: Path, split: str, counts: Sequence[dict]) -> bytes:
    """The same of places, which count on from piece to piece."""
    digest, name = hashlib.sha256(), f"{split}.ends"
    partial, before = partial_name(folder / name), 0
    with partial.open("wb") as out:
        for number, count in enumerate(counts):
            block = (np.fromfile(_piece_file(folder, number, name), dtype="<i8") + before).tobytes()
            digest.update(block)
            out.write(block)
            before += count["tokens"]
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, folder / name)
    return digest.digest()
