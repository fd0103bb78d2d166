"""The front of a GGUF file: header, metadata, and what its tensors are. A bounded walk; no tensor is read, no PyTorch.

Every count and length is compared with what is left of the file before anything is made of it, so a hostile file costs
no more than its own size. Arrays of numbers are views of the mapped file, arrays of texts are found but not decoded.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from hyla.checkpoints.gguf.types import REFUSED, TYPES, StoredType
from hyla.errors import CheckpointError
from hyla.whole_files import require_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_KEYS, MAX_TENSORS, MAX_TEXTS = 1 << 16, 1 << 17, 1 << 22
MAX_NAME_BYTES, MAX_KEY_BYTES = 63, 1 << 16
MIN_KEY_BYTES, MIN_TENSOR_BYTES = 13, 32
"""The smallest record of each kind."""
MAX_DIMS = 4

NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
"""Types of metadata values that are numbers, as numpy spells them."""
BOOL, TEXT, ARRAY = 7, 8, 9
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class Texts:
    """An array of texts inside a file, decoded when it is asked for."""

    buffer: memoryview
    offset: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[bytes]:
        offset, buffer = self.offset, self.buffer
        for _ in range(self.count):
            (size,) = U64.unpack_from(buffer, offset)
            yield bytes(buffer[offset + 8 : offset + 8 + size])
            offset += 8 + size


Value = int | float | bool | bytes | np.ndarray | Texts
"""A metadata value; a text is bytes, since nothing promises that it is UTF-8."""


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor: where, and how."""

    name: str
    shape: tuple[int, ...]
    """As PyTorch has it: the last dimension is contiguous."""
    stored: StoredType
    file: Path
    buffer: memoryview
    offset: int
    """In the buffer, of the first byte."""

    @property
    def row_bytes(self) -> int:
        """Of one run along the last dimension."""
        return self.shape[-1] // self.stored.block * self.stored.block_bytes

    @property
    def nbytes(self) -> int:
        """As stored."""
        return prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class Part:
    """What one file says."""

    file: Path
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]


class _Cursor:
    """Goes through one file from front to back and never past its end."""

    def __init__(self, file: Path, buffer: memoryview):
        self.file, self.buffer, self.at = file, buffer, 0

    def wrong(self, what: str, way_out: str = "fetch it again") -> CheckpointError:
        return CheckpointError(f"{self.file}: {what}; {way_out}")

    @property
    def left(self) -> int:
        return len(self.buffer) - self.at

    def skip(self, size: int, what: str) -> int:
        """Go on by `size` bytes; where they start."""
        if size > self.left:
            raise self.wrong(f"{what} takes {size:,} bytes at {self.at:,} and the file has {self.left:,} left")
        self.at += size
        return self.at - size

    def u32(self, what: str) -> int:
        return U32.unpack_from(self.buffer, self.skip(4, what))[0]

    def u64(self, what: str) -> int:
        return U64.unpack_from(self.buffer, self.skip(8, what))[0]

    def text(self, what: str) -> bytes:
        size = self.u64(f"the length of {what}")
        start = self.skip(size, what)
        return bytes(self.buffer[start : start + size])

    def count(self, what: str, most: int, smallest: int) -> int:
        """How many records follow, each of at least `smallest` bytes."""
        count = self.u64(f"the number of {what}")
        if count > most or count * smallest > self.left:
            fit = min(most, self.left // smallest)
            raise self.wrong(f"{count:,} {what} are announced, and at most {fit:,} fit")
        return count


def read_part(file: Path) -> Part:
    """Walk one file. Raises CheckpointError that names the file, the key or tensor, and what is wrong with it."""
    cursor = _Cursor(file, _mapped(file))
    _check_version(cursor)
    num_tensors, num_keys = _counts(cursor)
    metadata: dict[str, Value] = {}
    for number in range(num_keys):
        key, value = _key_and_value(cursor, number)
        if key in metadata:
            raise cursor.wrong(f"key {key} is there twice")
        metadata[key] = value
    records = [_tensor_record(cursor, number) for number in range(num_tensors)]
    return Part(file, metadata, _placed(cursor, records, _alignment(cursor, metadata)))


def _mapped(file: Path) -> memoryview:
    """The file as memory that cannot be written to; a writable mapping larger than the machine's memory is refused."""
    try:
        require_regular(file)
        with file.open("rb") as opened:
            return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise CheckpointError(f"{file} cannot be read as a GGUF file: {error}; fetch it again") from error


def _check_version(cursor: _Cursor) -> None:
    start = cursor.skip(8, "the header")
    magic, version = bytes(cursor.buffer[start : start + 4]), U32.unpack_from(cursor.buffer, start + 4)[0]
    if magic != MAGIC:
        raise cursor.wrong(f"it starts with {magic!r} instead of {MAGIC!r}: this is not a GGUF file", "check the path")
    if version & 0xFFFF == 0 and version >> 16:
        raise cursor.wrong("it is big-endian", "fetch or convert the little-endian file")
    if version not in VERSIONS:
        raise cursor.wrong(f"GGUF version {version} is not one of {VERSIONS}", "convert the model again")


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """(tensors, keys): the header has the tensors first, the file the keys."""
    if cursor.left < 16:
        raise cursor.wrong(f"the header takes 24 bytes and the file has {len(cursor.buffer)}")
    num_tensors = cursor.count("tensors", MAX_TENSORS, MIN_TENSOR_BYTES)
    return num_tensors, cursor.count("keys", MAX_KEYS, MIN_KEY_BYTES)


def _key_and_value(cursor: _Cursor, number: int) -> tuple[str, Value]:
    raw = cursor.text(f"key {number}")
    try:
        key = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise cursor.wrong(f"key {number} is not UTF-8") from error
    if not key or len(raw) > MAX_KEY_BYTES:
        raise cursor.wrong(f"key {number} has {len(raw):,} bytes instead of 1 to {MAX_KEY_BYTES:,}")
    return key, _value(cursor, cursor.u32(f"the type of {key}"), key)


def _value(cursor: _Cursor, kind: int, key: str) -> Value:
    if kind in NUMBERS:
        return _number(_array(cursor, NUMBERS[kind], 1, key)[0])
    if kind == BOOL:
        return bool(_flags(cursor, 1, key)[0])
    if kind == TEXT:
        return cursor.text(key)
    if kind != ARRAY:
        raise cursor.wrong(f"{key} has the unknown type {kind}")
    inner = cursor.u32(f"the type of the elements of {key}")
    if inner == TEXT:
        return _texts(cursor, key)
    if inner not in NUMBERS and inner != BOOL:
        what = "is an array of arrays" if inner == ARRAY else f"is an array of the unknown type {inner}"
        raise cursor.wrong(f"{key} {what}")
    count = cursor.count(f"elements of {key}", len(cursor.buffer), 1)
    return _flags(cursor, count, key) if inner == BOOL else _array(cursor, NUMBERS[inner], count, key)


def _array(cursor: _Cursor, dtype: str, count: int, key: str) -> np.ndarray:
    """Numbers as a view of the file."""
    start = cursor.skip(np.dtype(dtype).itemsize * count, key)
    return np.frombuffer(cursor.buffer, dtype, count, start)


def _flags(cursor: _Cursor, count: int, key: str) -> np.ndarray:
    bytes_ = _array(cursor, "<u1", count, key)
    if count and int(bytes_.max()) > 1:
        raise cursor.wrong(f"{key} holds {int(bytes_.max())} where true and false are 1 and 0")
    return bytes_.view(np.bool_)


def _texts(cursor: _Cursor, key: str) -> Texts:
    """An array of texts: its lengths are walked, its texts stay where they are."""
    count = cursor.count(f"texts of {key}", MAX_TEXTS, 8)
    start = offset = cursor.at
    unpack, buffer, last = U64.unpack_from, cursor.buffer, len(cursor.buffer) - 8
    for number in range(count):
        if offset > last:
            raise cursor.wrong(f"{key} ends after {number:,} of {count:,} texts")
        offset += 8 + unpack(buffer, offset)[0]
    cursor.skip(offset - start, key)
    return Texts(buffer, start, count)


def _number(value: np.generic) -> int | float:
    """A number as Python has it; of an f32 the shortest decimal that is the same f32, as whoever wrote it meant it."""
    return float(str(value)) if value.dtype == np.float32 else value.item()


def _alignment(cursor: _Cursor, metadata: dict[str, Value]) -> int:
    found = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(found) is not int or not 8 <= found <= MAX_ALIGNMENT or found & (found - 1):
        raise cursor.wrong(f"general.alignment = {found!r} is not a power of two from 8 to {MAX_ALIGNMENT}")
    return found


def _tensor_record(cursor: _Cursor, number: int) -> tuple[str, tuple[int, ...], StoredType, int]:
    raw = cursor.text(f"the name of tensor {number}")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise cursor.wrong(f"the name of tensor {number} is not UTF-8") from error
    if not 1 <= len(raw) <= MAX_NAME_BYTES:
        raise cursor.wrong(f"the name of tensor {number} has {len(raw):,} bytes instead of 1 to {MAX_NAME_BYTES}")
    num_dims = cursor.u32(f"the number of dimensions of {name}")
    if not 1 <= num_dims <= MAX_DIMS:
        raise cursor.wrong(f"tensor {name} has {num_dims:,} dimensions instead of 1 to {MAX_DIMS}")
    dims = [cursor.u64(f"a dimension of {name}") for _ in range(num_dims)]
    shape = tuple(reversed(dims))
    if 0 in dims or prod(dims) >= 1 << 63:
        raise cursor.wrong(f"tensor {name} has the impossible shape {shape}")
    kind = cursor.u32(f"the type of {name}")
    if kind not in TYPES:
        known = REFUSED.get(kind, "unknown")
        raise cursor.wrong(
            f"tensor {name} is stored as type {kind} ({known})", "quantise the model again, e.g. to Q8_0"
        )
    stored = TYPES[kind]
    if dims[0] % stored.block:
        raise cursor.wrong(f"tensor {name} is {stored.name} with rows of {dims[0]}, no multiple of {stored.block}")
    return name, shape, stored, cursor.u64(f"the offset of {name}")


def _placed(cursor: _Cursor, records: list, alignment: int) -> dict[str, TensorInfo]:
    """The tensors by name; each must start where the one before ends, and end inside of the file."""
    data = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for name, shape, stored, offset in records:
        info = TensorInfo(name, shape, stored, cursor.file, cursor.buffer, data + offset)
        if name in tensors:
            raise cursor.wrong(f"tensor {name} is there twice")
        if offset != expected:
            raise cursor.wrong(
                f"tensor {name} starts at {offset:,} of the data; the tensor before it ends at {expected:,}"
            )
        if info.offset + info.nbytes > len(cursor.buffer):
            end, size = info.offset + info.nbytes, len(cursor.buffer)
            raise cursor.wrong(f"tensor {name} ends at {end:,} and the file at {size:,}: it is truncated")
        tensors[name] = info
        expected += -(-info.nbytes // alignment) * alignment
    return tensors
