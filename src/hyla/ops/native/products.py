"""Products with stored weights by our own kernel (product.c): plain ones, weights in tiles, FP8 codes.

A sum has one order, the columns', whatever the number of rows, the storage and the threads: rows are equal by
construction, and nothing needs to be found out about a library first.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, addressof, byref, c_int64, c_void_p
from functools import cache, lru_cache, partial

import torch

from hyla.ops.native import library
from hyla.ops.native.kernels import is_bf16
from hyla.ops.native.launching import empty, launch
from hyla.ops.native.streams import scaled

TILE = 64
"""Outputs that lie beside one another in a tile."""

SCALE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float8_e8m0fnu: 2}
"""Dtypes of FP8 scales that the kernel reads."""


class ProductCall(Structure):
    """The struct `Call` of product.c."""

    _fields_ = (
        ("spans", c_int64),
        ("span", c_void_p),
        ("tiles", c_int64),
        ("tile", c_void_p),
        *((name, c_int64) for name in ("outputs", "inner", "scale_rows", "scale_kind")),
        *((name, c_void_p) for name in ("weights", "scales")),
        *((name, c_int64) for name in ("w_bf16", "is_tiled")),
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("y", c_void_p),
        *((name, c_int64) for name in ("y_stride", "x_bf16", "y_bf16")),
        ("bias", c_void_p),
        *((name, c_int64) for name in ("x_matrix", "y_matrix", "is_turned")),
    )


@cache
def tile_list(strips: tuple[tuple[int, int, int], ...]) -> torch.Tensor:
    """int64 [N, 3]: (first output, count, row of scales) of each tile, for strips (first, last, row of scales)."""
    found = []
    for start, end, scale_row in strips:
        found += [(first, min(TILE, end - first), scale_row) for first in range(start, end, TILE)]
    return torch.tensor(found, dtype=torch.int64).view(-1, 3)


class Stored:
    """A matrix [O, D], or a stack of them [E, O, D], as the kernel reads it, with the tensors that it points to."""

    def __init__(
        self,
        weights: torch.Tensor,
        shape: Sequence[int],
        *,
        scales: torch.Tensor | None = None,
        strips: tuple[tuple[int, int, int], ...] | None = None,
        is_tiled: bool = False,
        is_turned: bool = False,
    ):
        """weights: dense, plain [..., O, D] (fp32 or bf16), e4m3 codes with their scales, or `tiles.in_tiles`' result.
        strips: (first output, last + 1, row of scales) down a matrix of codes. is_turned: plain ones lie as
        [..., D, O]; the shape is [..., O, D] all the same."""
        self._made_of = (weights, tuple(shape), scales, strips, is_tiled, is_turned)
        *_, outputs, inner = shape
        tiles_N3 = tile_list(((0, outputs, 0),) if strips is None else strips)
        self._tiles = tiles_N3
        self.outputs = outputs
        call = ProductCall(tiles=tiles_N3.shape[0], tile=tiles_N3.data_ptr(), outputs=outputs, inner=inner)
        call.weights, call.is_tiled, call.w_bf16 = weights.data_ptr(), int(is_tiled), is_bf16(weights)
        call.is_turned = int(is_turned)
        if scales is not None:
            call.scale_rows, call.scale_kind = scales.shape[-2], SCALE_KINDS[scales.dtype]
            call.scales = scales.data_ptr()
        self._call = bytes(call)

    def __reduce__(self):
        """A copy points at the tensors that are copied with it."""
        weights, shape, scales, strips, is_tiled, is_turned = self._made_of
        layout = {"scales": scales, "strips": strips, "is_tiled": is_tiled, "is_turned": is_turned}
        return partial(Stored, **layout), (weights, shape)

    def call(self) -> ProductCall:
        """A call of its own, in which the rows are still missing."""
        return ProductCall.from_buffer_copy(self._call)


def plain(weights: torch.Tensor) -> Stored:
    """Plain matrices [.., O, D] where they lie; a transposed view is read as it lies, too: no copy is made."""
    turned = weights.mT
    if turned.is_contiguous() and not weights.is_contiguous():
        return Stored(turned, weights.shape, is_turned=True)
    return Stored(weights.contiguous(), weights.shape)


def product(
    x_TD: torch.Tensor,
    stored: Stored,
    bias_O: torch.Tensor | None = None,
    *,
    spans_S3: torch.Tensor | None = None,
    out_TO: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Rows x [T, D], fp32 or bf16, times the weight: [T, O]. fp32 rows may meet bf16 weights.

    dtype: of the result, fp32 or bf16; None: out's, or x's.

    spans: int64 (matrix, first row, last row + 1), which matrix of a stack multiplies which rows; None: one matrix, all
    rows. out: a view with dense rows to write to. bias [O]: joins the finished fp32 sum before it is rounded.
    """
    call = stored.call()
    call.x_bf16 = is_bf16(x_TD)
    if call.scales:
        call.w_bf16 = call.x_bf16
    if call.w_bf16 and call.inner % 2:
        x_TD = torch.nn.functional.pad(x_TD, (0, 1))
    if x_TD.stride(1) != 1:
        x_TD = x_TD.contiguous()
    num_rows = x_TD.shape[0]
    y_TO = empty((num_rows, stored.outputs), dtype or x_TD.dtype) if out_TO is None else out_TO
    call.y_bf16 = is_bf16(y_TO)
    if spans_S3 is None:
        spans = (c_int64 * 3)(0, 0, num_rows)
        call.spans, call.span = 1, addressof(spans)
    else:
        spans = spans_S3
        call.spans, call.span = spans_S3.shape[0], spans_S3.data_ptr()
    call.x, call.x_stride, call.y, call.y_stride = x_TD.data_ptr(), x_TD.stride(0), y_TO.data_ptr(), y_TO.stride(0)
    if bias_O is not None:
        bias_O = bias_O if bias_O.dtype == torch.float32 else scaled(bias_O, 1.0, torch.float32)
        bias_O = bias_O.contiguous()
        call.bias = bias_O.data_ptr()
    launch("product", call, stored, spans, x_TD, y_TO, bias_O)
    return y_TO


@lru_cache(256)
def _head_spans(num_heads: int, num_rows: int) -> torch.Tensor:
    """All rows for each matrix."""
    return torch.tensor([(head, 0, num_rows) for head in range(num_heads)], dtype=torch.int64)


def head_product(x_THD: torch.Tensor, stored: Stored, out_THO: torch.Tensor | None = None) -> torch.Tensor:
    """fp32 rows [T, H, D], each head's times its own matrix of a stack [H, O, D] in fp32 or bf16: fp32 [T, H, O].

    out: a view with dense rows to write to.
    """
    call = stored.call()
    if call.w_bf16 and call.inner % 2:
        x_THD = torch.nn.functional.pad(x_THD, (0, 1))
    if x_THD.stride(2) != 1:
        x_THD = x_THD.contiguous()
    num_rows, num_heads, _ = x_THD.shape
    y_THO = empty((num_rows, num_heads, stored.outputs), torch.float32) if out_THO is None else out_THO
    spans_H3 = _head_spans(num_heads, num_rows)
    call.spans, call.span = num_heads, spans_H3.data_ptr()
    call.x, call.x_stride, call.x_matrix = x_THD.data_ptr(), x_THD.stride(0), x_THD.stride(1)
    call.y, call.y_stride, call.y_matrix = y_THO.data_ptr(), y_THO.stride(0), y_THO.stride(1)
    launch("product", call, stored, spans_H3, x_THD, y_THO)
    return y_THO


def from_tiles(tiles: torch.Tensor, outputs: int, inner: int) -> torch.Tensor:
    """The dense weight [..., O, D] of `tiles.in_tiles`, bit for bit."""
    if tiles.dtype == torch.bfloat16:
        *lead, num_tiles, lines, _, _ = tiles.shape
        rows = tiles.transpose(-3, -2).reshape(*lead, num_tiles * TILE, 2 * lines)
    else:
        *lead, num_tiles, lines, _ = tiles.shape
        rows = tiles.transpose(-2, -1).reshape(*lead, num_tiles * TILE, lines)
    return rows[..., :outputs, :inner].contiguous()


def rows_of_tiles(tiles: torch.Tensor, ids_T: torch.Tensor, inner: int) -> torch.Tensor:
    """Rows int64 [T] of a matrix in tiles, [T, D]: an embedding's."""
    tile_T, place_T = ids_T // TILE, ids_T % TILE
    return tiles[tile_T, :, place_T].flatten(1)[:, :inner]


def fp8_dense(stored: Stored, matrix: int, first: int, out_RD: torch.Tensor) -> None:
    """Rows from `first` on of one matrix of codes, as many as out [R, D] has, in out's dtype."""
    places = (c_int64(matrix), c_int64(first), c_int64(first + out_RD.shape[0]))
    library().hyla_fp8_dense(byref(stored.call()), *places, is_bf16(out_RD), c_void_p(out_RD.data_ptr()))
