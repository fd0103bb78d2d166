"""Codings that several formats share: a matrix of codes and a grid of scales over its blocks. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.stored import FLOATS, Headers, Parts

if TYPE_CHECKING:  # configs are read without PyTorch
    import torch

FP8 = "F8_E4M3"
NVFP4_BLOCK = 16
MXFP4_BLOCK = 32


@dataclass(frozen=True)
class Grid:
    """How the scales of a matrix [out, in] are stored: one row or one column stands for all."""

    shape: tuple[int, int]
    block: tuple[int, int]
    """(outputs, inputs) that share a scale."""


def grid_of(shape: tuple[int, ...], matrix: tuple[int, int], block: tuple[int, int] | None = None) -> Grid | None:
    """Read a shape of scales: one for all, for each output, or for each block; None where it is none of these."""
    out, into = matrix
    if shape in ((), (1,), (1, 1)):
        return Grid((1, 1), (out, into))
    if shape in ((out,), (out, 1)):
        return Grid((out, 1), (1, into))
    if block is not None:
        blocks = (-(-out // block[0]), -(-into // block[1]))
        if shape in (blocks, (blocks[0], 1, blocks[1], 1)):
            return Grid(blocks, block)
    return None


def scaled(
    headers: Headers,
    parts: dict[str, str],
    codes: str,
    *,
    block: tuple[int, int] | None = None,
    label: str,
    zero_shape: tuple[int, ...] | None = None,
) -> Packed:
    """A weight of plain codes (FP8, int8) in "codes" with scales in "scales", maybe zero points in "zeros".

    codes: their dtype. block: (outputs, inputs) that may share a scale, besides all and one output's.
    """
    matrix = headers.matrix(parts["codes"], codes)
    shape = headers.source.shape(parts["scales"])
    grid = grid_of(shape, matrix, block)
    if grid is None or headers.source.dtype(parts["scales"]) not in FLOATS:
        kinds = f"one scale, {matrix[0]:,} of outputs" + (f" or one for each block of {block}" if block else "")
        headers.refuse(parts["scales"], f"is {headers.source.dtype(parts['scales'])} {shape} instead of {kinds}")
    if "zeros" in parts:
        headers.expect(parts["zeros"], [shape if zero_shape is None else zero_shape], "I8", "I32", "F32", *FLOATS)
    return Packed(matrix, label, parts, ScaledCoding(grid))


@dataclass(frozen=True)
class ScaledCoding:
    """A `Coding`: W = (codes - zeros) scales, each scale for a block."""

    grid: Grid

    def check(self, parts: Parts) -> None:
        parts.finite("scales")
        if "zeros" in parts:
            parts.finite("zeros")

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        from hyla.checkpoints.quantised import numbers

        codes, rows = parts["codes"], self.grid.block[0]
        numbers.decode_blocks(
            into,
            lambda first, last: codes[first:last].float(),
            parts["scales"].float().reshape(self.grid.shape),
            zero_AB=parts["zeros"].float().reshape(self.grid.shape) if "zeros" in parts else None,
            block_rows=rows,
            block_of=numbers.block_of_columns(into.shape[1], self.grid.block[1]),
        )


@dataclass(frozen=True)
class FP4Coding:
    """A `Coding` of E2M1 numbers, two in a byte, with a scale for each block of inputs.

    NVFP4: W = code (scale * global) or code (scale / global), FP8 scales of 16 inputs. MXFP4: no global scale, powers
    of two for 32 inputs.
    """

    block: int
    divides: bool = False
    """Whether the global scale divides (compressed-tensors) or multiplies (ModelOpt)."""

    def check(self, parts: Parts) -> None:
        if not bool(self._scales(parts).isfinite().all()):
            parts.refuse("scales", "holds numbers that are not finite, or does so beside its global scale")

    def decode(self, parts: Parts, into: torch.Tensor) -> None:
        from hyla.checkpoints.quantised import numbers

        packed = parts["codes"]
        numbers.decode_blocks(
            into,
            lambda first, last: numbers.unpack_fp4(packed[first:last]),
            self._scales(parts),
            block_of=numbers.block_of_columns(into.shape[1], self.block),
        )

    def _scales(self, parts: Parts) -> torch.Tensor:
        """The whole scale of each block [out, in / block], float32."""
        from hyla.checkpoints.quantised import numbers

        if "global" not in parts:
            return numbers.powers_of_two(parts["scales"])
        scales, whole = parts["scales"].float(), parts["global"].float().reshape(())
        return scales / whole if self.divides else scales * whole


def nvfp4(headers: Headers, parts: dict[str, str], *, divides: bool) -> Packed:
    """NVFP4 with "codes" [out, in / 2], "scales" [out, in / 16] and one "global" scale."""
    out, half = headers.matrix(parts["codes"], "U8")
    if half * 2 % NVFP4_BLOCK:
        headers.refuse(parts["codes"], f"has {half * 2:,} inputs, which are no multiple of {NVFP4_BLOCK}")
    headers.expect(parts["scales"], [(out, half * 2 // NVFP4_BLOCK)], FP8)
    headers.expect(parts["global"], [(), (1,), (1, 1)], *FLOATS)
    return Packed((out, half * 2), "NVFP4", parts, FP4Coding(NVFP4_BLOCK, divides))


def mxfp4(headers: Headers, parts: dict[str, str]) -> Packed:
    """MXFP4 with "codes" [out, in / 2] and "scales" [out, in / 32]."""
    out, half = headers.matrix(parts["codes"], "U8")
    if half * 2 % MXFP4_BLOCK:
        headers.refuse(parts["codes"], f"has {half * 2:,} inputs, which are no multiple of {MXFP4_BLOCK}")
    headers.expect(parts["scales"], [(out, half * 2 // MXFP4_BLOCK)], "U8", "F8_E8M0")
    return Packed((out, half * 2), "MXFP4", parts, FP4Coding(MXFP4_BLOCK))
