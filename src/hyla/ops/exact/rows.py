"""Matrix products whose rows do not depend on how many rows there are.

On the CPU our own kernel computes them where there is one (`ops.native.products`): a sum has one order there, and
nothing needs to be checked. The rest of this module is for where there is none.

A library picks another kernel, with another order of summation, for another number of rows. So Hyla only ever calls
it with a few row counts (buckets), checks once per weight shape, machine and thread count which of them give the same
bits, and uses those: a row then has one result, whether it came alone or among 4,096 others. The set of calls is
finite and every one of them has been compared; nothing is assumed about the library.

Where `numerics` is "fast" it is called with the rows as they come, and nothing is promised of a row.

The checks cost some tens of milliseconds and memory of about three weights for each shape, once per process. A weight
of more than BLOCK_ELEMENTS (a vocabulary's) is checked, packed and multiplied in blocks of its outputs, so no check is
larger than one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch

from hyla.errors import BackendUnavailable
from hyla.ops import backends, numerics
from hyla.ops.exact import portable
from hyla.ops.exact.gradients import bias_gradient, weight_gradient
from hyla.ops.exact.library import has_library_layout, linear_once, reorder
from hyla.ops.exact.row_checks import adds_bias_once, agreeing_sets, agrees, check_bias, check_data, check_lock
from hyla.ops.native import products

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Row counts that `linear` may use."""

SMALL_ELEMENTS, SMALL_ROWS = 1 << 18, 2048
"""Weights up to this size may also use this many rows: a call costs more than the arithmetic there."""

ENOUGH_ROWS = 64
"""A set of row counts that agree is worth using from this largest count on: prefill then runs near full speed."""

BLOCK_ELEMENTS = 1 << 24
"""Largest weight of one library call."""


@dataclass(frozen=True)
class Buckets:
    """The row counts to use for one weight shape, ascending; `plain` are those that plain weights may use as they
    are. For the others a plain weight is put into the library's layout first."""

    rows: tuple[int, ...]
    plain: frozenset[int]


def block_sizes(out_dim: int, in_dim: int) -> tuple[int, ...]:
    """Outputs of each block of a weight.

    >>> block_sizes(1000, 48), block_sizes(151936, 1024)
    ((1000,), (15232, 15232, 15232, 15232, 15232, 15232, 15232, 15232, 15232, 14848))
    """
    num_blocks = -(-out_dim * in_dim // BLOCK_ELEMENTS)
    if num_blocks <= 1:
        return (out_dim,)
    size = -(-out_dim // (64 * num_blocks)) * 64
    return (size,) * (out_dim // size) + ((out_dim % size,) if out_dim % size else ())


@cache
def row_buckets(
    out_dim: int, in_dim: int, dtype: torch.dtype, device: torch.device, num_threads: int, has_bias: bool = False
) -> Buckets:
    """The row counts whose rows agree bit for bit, for a weight [out_dim, in_dim] of at most BLOCK_ELEMENTS.

    Where the library has two kernels for this shape (few rows, many rows), the counts fall into sets; the one with the
    smallest count is taken among those that reach ENOUGH_ROWS, else the one that reaches furthest. has_bias: for calls
    to which a bias is given, which may be other kernels.
    """
    with check_lock, torch.no_grad():
        counts = ROW_BUCKETS + ((SMALL_ROWS,) if out_dim * in_dim <= SMALL_ELEMENTS else ())
        generator = torch.Generator().manual_seed(20260101)
        plain = check_data(out_dim, in_dim, generator, -1.0).to(device=device, dtype=dtype)
        x_RD = check_data(counts[-1], in_dim, generator, 1.0).to(device=device, dtype=dtype)
        weight = reorder(plain) if has_library_layout(device, dtype) else plain
        bias_O = check_bias(linear_once(x_RD, weight), generator) if has_bias else None
        sets = agreeing_sets(counts, lambda first, count: linear_once(x_RD[first : first + count], weight, bias_O))
        if not sets:
            raise BackendUnavailable(f"no matrix product with a weight [{out_dim}, {in_dim}] in {dtype} repeats itself")
        rows, expected = min(sets, key=lambda found: _preference(found[0]))

        def call_plain(first: int, count: int) -> torch.Tensor:
            return linear_once(x_RD[first : first + count], plain, bias_O)

        return Buckets(rows, frozenset(count for count in rows if agrees(call_plain, count, expected)))


@cache
def joins_bias(out_dim: int, in_dim: int, dtype: torch.dtype, device: torch.device, num_threads: int) -> bool:
    """Whether the library adds a bias to bf16's sum before it is rounded. The counts agree: one shows it for all."""
    if not has_library_layout(device, dtype):  # its plain product takes no bias that is wider than the weight
        return False
    count = row_buckets(out_dim, in_dim, dtype, device, num_threads, True).rows[0]
    with check_lock, torch.no_grad():
        return adds_bias_once(linear_once, count, out_dim, in_dim, device)


def _preference(rows: tuple[int, ...]) -> tuple[int, int]:
    """Smallest is best."""
    return (0, rows[0]) if rows[-1] >= ENOUGH_ROWS else (1, -rows[-1])


def split_rows(num_rows: int, buckets: tuple[int, ...]) -> list[int]:
    """Bucket sizes that cover num_rows in order; the last may reach past the end (padding).

    >>> split_rows(300, (1, 64, 256, 512))
    [256, 64]
    """
    sizes = []
    while num_rows > 0:
        above = next((size for size in buckets if size >= num_rows), buckets[-1])
        below = max((size for size in buckets if size <= num_rows), default=above)
        size = above if above <= num_rows * 3 // 2 or below * 4 < num_rows else below
        sizes.append(size)
        num_rows -= size
    return sizes


def _linear_block(x_TD: torch.Tensor, weight: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """Rows times one block, in calls of bucket sizes. bias_O: only where the sum is rounded to less than fp32."""
    if x_TD.dtype == torch.float64:
        # An oracle's dtype: no promise, no check.
        return torch.nn.functional.linear(x_TD, weight)
    if numerics.is_fast():
        return _linear_as_it_comes(x_TD, weight, bias_O)
    if backends.is_portable(x_TD.device):
        return portable.linear(x_TD, weight.to_dense() if weight.is_mkldnn else weight, bias_O)
    out_dim, in_dim = weight.shape
    num_rows = x_TD.shape[0]
    call = (out_dim, in_dim, x_TD.dtype, x_TD.device, torch.get_num_threads())
    if bias_O is not None and not joins_bias(*call):
        return _linear_in_fp32(x_TD, weight, bias_O)
    bias_O = None if bias_O is None else bias_O.to(torch.float32)  # so that the library is asked in one way only
    buckets = row_buckets(*call, bias_O is not None)
    if num_rows in buckets.rows and (weight.is_mkldnn or num_rows in buckets.plain):
        return linear_once(x_TD.contiguous(), weight, bias_O)
    sizes = [num_rows] if num_rows in buckets.rows else split_rows(num_rows, buckets.rows)
    if not weight.is_mkldnn and not buckets.plain.issuperset(sizes):
        weight = reorder(weight)
    parts, first = [], 0
    for size in sizes:
        rows_RD = x_TD[first : first + size]
        if rows_RD.shape[0] < size:
            rows_RD = torch.cat([rows_RD, rows_RD.new_zeros(size - rows_RD.shape[0], in_dim)])
        parts.append(linear_once(rows_RD.contiguous(), weight, bias_O)[: num_rows - first])
        first += size
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _linear_as_it_comes(x_TD: torch.Tensor, weight: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """Rows times one block in one call of the library, whatever their number: for `numerics` "fast"."""
    if weight.is_mkldnn and not has_library_layout(x_TD.device, x_TD.dtype):
        weight = weight.to_dense()  # the backend has changed since
    y_TO = linear_once(x_TD.contiguous(), weight)
    return y_TO if bias_O is None else (y_TO + bias_O).to(y_TO.dtype)


def _linear_in_fp32(x_TD: torch.Tensor, weight: torch.Tensor, bias_O: torch.Tensor) -> torch.Tensor:
    """Rows times one block in fp32, where the library would round before it adds the bias."""
    weight = weight.to_dense() if weight.is_mkldnn else weight
    y_TO = _linear_block(x_TD.to(torch.float32), weight.to(torch.float32), None)
    return (y_TO + bias_O).to(x_TD.dtype)


def linear_blocks(
    x_TD: torch.Tensor, blocks: Sequence[torch.Tensor], bias_O: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows times a weight that is given by blocks of its outputs (`block_sizes`), plain or in the library's layout."""
    if bias_O is not None and x_TD.dtype in (torch.float32, torch.float64):
        return linear_blocks(x_TD, blocks) + bias_O  # no rounding stands between the two
    biases = [None] * len(blocks) if bias_O is None else bias_O.split([block.shape[0] for block in blocks])
    parts = [_linear_block(x_TD, block, bias) for block, bias in zip(blocks, biases)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _linear_rows(x_TD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    bias_O = None if bias_O is None else bias_O.detach()
    if backends.uses_native(x_TD):
        return products.product(x_TD, products.plain(weight_OD.detach()), bias_O)
    return linear_blocks(x_TD, weight_OD.detach().contiguous().split(block_sizes(*weight_OD.shape)), bias_O)


def input_gradient(grad_TO: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
    """The gradient grad W [T, D] of the rows of x W^T, from that of the products [T, O]; all in one dtype.

    Exactness: as `linear`'s, whose product it is with the transposed weight: a row's bits do not depend on the others.
    """
    return _linear_rows(grad_TO, weight_OD.mT, None)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TD, weight, bias):
        ctx.save_for_backward(x_TD, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _linear_rows(x_TD, weight, bias)

    @staticmethod
    def backward(ctx, grad_TO):
        x_TD, weight = ctx.saved_tensors
        grad_x = input_gradient(grad_TO, weight) if ctx.needs_input_grad[0] else None
        grad_weight = weight_gradient(grad_TO, x_TD) if ctx.needs_input_grad[1] else None
        grad_bias = bias_gradient(grad_TO, ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


def _widened_rows(x_TD: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
    if backends.uses_native(x_TD):
        return products.product(x_TD, products.plain(weight_OD.detach()), dtype=torch.float32)
    return _linear_rows(x_TD.to(torch.float32), weight_OD.detach().to(torch.float32), None)


class _Widened(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TD, weight):
        ctx.save_for_backward(x_TD, weight)
        return _widened_rows(x_TD, weight)

    @staticmethod
    def backward(ctx, grad_TO):
        (x_TD, weight), grad_x, grad_weight = ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            grad_x = input_gradient(grad_TO, weight.to(grad_TO.dtype)).to(x_TD.dtype)
        if ctx.needs_input_grad[1]:  # a frozen head, as large as the vocabulary, has none
            grad_weight = weight_gradient(grad_TO, x_TD.to(grad_TO.dtype)).to(weight.dtype)
        return grad_x, grad_weight


def linear_widened(x_TD: torch.Tensor, weight_OD: torch.Tensor) -> torch.Tensor:
    """x W^T in fp32, of bf16 rows and a plain bf16 weight: the sums of `linear` without their rounding.

    On the CPU's kernel it is bf16's own product, at its rate; elsewhere both are widened first. Exactness: as `linear`.
    """
    if x_TD.shape[0] == 0:
        return x_TD.new_zeros(0, weight_OD.shape[0], dtype=torch.float32)
    if torch.is_grad_enabled() and (x_TD.requires_grad or weight_OD.requires_grad):
        return _Widened.apply(x_TD, weight_OD)
    return _widened_rows(x_TD, weight_OD)


def linear(x_TD: torch.Tensor, weight_OD: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + bias for rows x [T, D] and a plain weight [O, D] of one dtype, and a bias [O]; [T, O] in that dtype.

    The bias, whose dtype may be wider, is added in fp32 and the sum rounded once: a bf16 product is not rounded before.
    Weights that are stored otherwise: `ops.weights`.
    Exactness: a row's bits do not depend on T, on the other rows, on the weight's layout, or on autograd (float64: no
    promise).
    """
    if x_TD.shape[0] == 0:
        return x_TD.new_zeros(0, weight_OD.shape[0])
    operands = (x_TD, weight_OD) if bias_O is None else (x_TD, weight_OD, bias_O)
    if torch.is_grad_enabled() and any(operand.requires_grad for operand in operands):
        return _Linear.apply(x_TD, weight_OD, bias_O)
    return _linear_rows(x_TD, weight_OD, bias_O)
