"""Where published tensors are read from: safetensors shards of a folder, with errors that name the file, or memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from math import prod
from os.path import exists, lexists
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from hyla.checkpoints.index import INDEX_FILE, SINGLE_FILE, shard_names
from hyla.errors import CheckpointError
from hyla.ops.host_memory import forget_mapped
from hyla.terminal_text import shortened
from hyla.whole_files import require_regular

BITS = {
    **{"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
    **{"I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8},
}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def _shard_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model, from the index when there is one; a file as it is."""
    if folder.is_file():
        return [folder]
    if lexists(folder / INDEX_FILE):
        names = shard_names(folder)
        missing = [name for name in names if not exists(folder / name)]
        if missing:
            raise CheckpointError(
                f"{folder / INDEX_FILE} names {len(missing)} missing shards: {shortened(str(missing[:3]), 300)}; "
                f"fetch them into {folder}"
            )
        return [folder / name for name in names]
    if lexists(folder / SINGLE_FILE):
        return [folder / SINGLE_FILE]
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has no safetensors, only {pickles[:3]}: pickle files can run code and are never opened; "
            "convert them to safetensors"
        )
    raise CheckpointError(f"{folder} has no {SINGLE_FILE} and no {INDEX_FILE}")


class TensorSource(Protocol):
    """Named published tensors."""

    @property
    def writer(self) -> str | None:
        """The library for which they were written, where the files say so: pt, mlx."""
        ...

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> str:
        """The safetensors spelling: F32, BF16, ..."""
        ...

    def stored_as(self, name: str) -> str:
        """How it is stored, where that is no dtype: Q4_K, ...; else the same."""
        ...

    def nbytes(self, name: str) -> int:
        """Bytes of the stored tensor."""
        ...

    def check_values(self, name: str) -> None:
        """Look at what says how codes become numbers, if they are codes: little, and before any is placed.

        Raises CheckpointError, which names the tensor.
        """
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """The numbers, possibly a view of a file; copy what must outlive the source."""
        ...

    def forget(self, name: str) -> None:
        """Let go of memory that holds a file's pages of this tensor, which was copied; it can be read again."""
        ...


DTYPE_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
}
"""safetensors' spellings."""


class TensorReader:
    """Named tensors in memory, read like the shards of a folder."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self._tensors = dict(tensors)
        self.writer = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> str:
        dtype = self._tensors[name].dtype
        return DTYPE_NAMES.get(dtype, str(dtype))

    stored_as = dtype

    def nbytes(self, name: str) -> int:
        return self._tensors[name].nbytes

    def check_values(self, name: str) -> None:
        """Plain numbers are what they are."""

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name].detach()

    def forget(self, name: str) -> None:
        """The memory is its owner's."""


class ShardReader:
    """Every tensor of a folder, or of one file, by published name, memory-mapped: read when it is used."""

    def __init__(self, folder: Path):
        self._stack = ExitStack()
        self._files = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        self.writer: str | None = None
        try:
            for file in _shard_files(folder):
                self._open(file)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, file: Path) -> None:
        try:
            require_regular(file)
            opened = self._stack.enter_context(safe_open(file, framework="pt"))
        except OSError as error:
            raise CheckpointError(
                f"{file} cannot be read: {error.strerror or error}; fetch or save it again"
            ) from error
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(
                f"{file} is truncated or not a safetensors file: {error}; fetch or save it again"
            ) from error
        self.writer = (opened.metadata() or {}).get("format", self.writer)
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            if name in self._files:
                raise CheckpointError(f"{file}: tensor {name} is also in another shard; remove one of the two")
            part = opened.get_slice(name)
            self._files[name] = opened
            self._shapes[name] = tuple(part.get_shape())
            self._dtypes[name] = part.get_dtype()

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Unmap the files; views of them must not be used then."""
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """The safetensors spelling: F32, BF16, ..."""
        return self._dtypes[name]

    stored_as = dtype

    def nbytes(self, name: str) -> int:
        """Bytes of the stored tensor."""
        return prod(self._shapes[name]) * BITS.get(self._dtypes[name], 32) // 8

    def check_values(self, name: str) -> None:
        """Plain numbers are what they are."""

    def tensor(self, name: str) -> torch.Tensor:
        """A view of the mapped file; copy what must outlive the reader."""
        return self._files[name].get_tensor(name)

    def forget(self, name: str) -> None:
        """Read pages of a mapped file count as the process's memory while it is mapped."""
        forget_mapped(self.tensor(name))
