"""Stored rows -> numbers: the commonest types in blocks.py, the others by the `gguf` library. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod

import numpy as np

from hyla.checkpoints.gguf import blocks
from hyla.checkpoints.gguf.file import TensorInfo
from hyla.errors import CheckpointError

PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}


def num_rows(info: TensorInfo) -> int:
    """Runs along the last dimension."""
    return prod(info.shape[:-1])


def decode_rows(info: TensorInfo, first: int, last: int) -> np.ndarray:
    """Rows `first` to `last` (not included) as numbers [last - first, row], float32 (float64 where stored so).

    F32 and F64 are views of the file. Raises CheckpointError when the installed library does not know the type, or
    when a number is not finite.
    """
    count = last - first
    raw = np.frombuffer(info.buffer, np.uint8, count * info.row_bytes, info.offset + first * info.row_bytes)
    kind = info.stored.name
    with np.errstate(all="ignore"):  # what is not finite is said below
        if kind in PLAIN:
            found = raw.view(PLAIN[kind])
            found = found.astype(np.float32) if kind == "F16" else found
        elif kind == "BF16":
            found = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        elif kind in blocks.DECODERS:
            found = blocks.decode(kind, raw.reshape(-1, info.stored.block_bytes))
        else:
            found = _dequantiser(kind)(raw.reshape(count, info.row_bytes))
    rows = found.reshape(count, info.shape[-1])
    with np.errstate(all="ignore"):
        is_suspect = not np.isfinite(rows.sum(dtype=np.float32))  # much cheaper than a look at every number
    if is_suspect and not np.isfinite(rows).all():
        row = first + int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise CheckpointError(
            f"{info.file}: tensor {info.name} ({kind}) holds numbers that are not finite, in row {row:,}; "
            "fetch it again, or take another quantisation"
        )
    return rows


@cache
def _dequantiser(kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """The library's function for one type."""
    from gguf import GGMLQuantizationType, quants

    found = GGMLQuantizationType.__members__.get(kind)
    if found is None or found not in quants._type_traits:
        raise CheckpointError(f"the installed gguf library cannot read {kind}; upgrade it: pip install --upgrade gguf")
    return lambda rows: quants.dequantize(rows, found)
