"""A small writer of GGUF files for tests: ours, so that the reader is not checked against the library it might share a
mistake with, and able to write what no writer should."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30
U8, I8, U16, I16, U32, I32, FLOAT, BOOL, TEXT, ARRAY, U64, I64, DOUBLE = range(13)
"""Types of metadata values."""
FORMS = {
    U8: "<B",
    I8: "<b",
    U16: "<H",
    I16: "<h",
    U32: "<I",
    I32: "<i",
    FLOAT: "<f",
    U64: "<Q",
    I64: "<q",
    DOUBLE: "<d",
}


@dataclass(frozen=True)
class Typed:
    """A metadata value of an explicit type; of an array, that of its elements."""

    kind: int
    value: Any


def text(value: str | bytes) -> bytes:
    """A text with its length."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def encoded(value) -> bytes:
    """A value with its type before it."""
    if isinstance(value, Typed) and isinstance(value.value, list):
        form = "<?" if value.kind == BOOL else FORMS[value.kind]
        body = b"".join(struct.pack(form, element) for element in value.value)
        return struct.pack("<IIQ", ARRAY, value.kind, len(value.value)) + body
    if isinstance(value, Typed):
        return struct.pack("<I", value.kind) + struct.pack(FORMS[value.kind], value.value)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT, value)
    if isinstance(value, str | bytes):
        return struct.pack("<I", TEXT) + text(value)
    return struct.pack("<IIQ", ARRAY, TEXT, len(value)) + b"".join(map(text, value))


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: its shape as PyTorch has it, ggml's type, its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes
    offset: int | None = None
    """None: where it belongs."""

    @classmethod
    def plain(cls, name: str, array: np.ndarray) -> Stored:
        """Numbers as F32."""
        return cls(name, array.shape, F32, np.ascontiguousarray(array, "<f4").tobytes())


@dataclass
class GGUF:
    """What goes into a file; every part can be replaced by bytes of one's own."""

    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: list[Stored] = field(default_factory=list)
    alignment: int = 32
    version: int = 3
    extra_keys: bytes = b""
    num_extra: int = 0
    counts: tuple[int, int] | None = None
    """(tensors, keys) that the header announces; None: how many there are."""

    def header(self) -> bytes:
        """Everything before the data."""
        keys = b"".join(text(key) + encoded(value) for key, value in self.metadata.items()) + self.extra_keys
        infos, offset = b"", 0
        for tensor in self.tensors:
            place = offset if tensor.offset is None else tensor.offset
            dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
            infos += text(tensor.name) + dims + struct.pack("<IQ", tensor.kind, place)
            offset += -(-len(tensor.data) // self.alignment) * self.alignment
        counts = self.counts or (len(self.tensors), len(self.metadata) + self.num_extra)
        return b"GGUF" + struct.pack("<IQQ", self.version, *counts) + keys + infos

    def encode(self) -> bytes:
        """The whole file."""
        out = self.header()
        out += bytes(-len(out) % self.alignment)
        for tensor in self.tensors:
            out += tensor.data + bytes(-len(tensor.data) % self.alignment)
        return out
