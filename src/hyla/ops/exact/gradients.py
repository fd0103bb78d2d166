"""Products that only promise to repeat themselves, nothing of rows: gradients of weights, and what optimizers do."""

from __future__ import annotations

import torch

from hyla.ops import backends
from hyla.ops.exact.library import has_library_layout, linear_once, multiplies_bf16
from hyla.ops.native import gradients as native

SMALL_WEIGHT = 1 << 16
"""Elements of fp32 weights for which our kernel is quicker than the library, up to twice (docs/log.md)."""


def weight_gradient(grad_TO: torch.Tensor, x_TD: torch.Tensor) -> torch.Tensor:
    """The gradient grad^T x [O, D] of a weight: sums over rows in fp32 (float64), rounded once to their dtype. Dense.

    Repeats itself bit for bit. By our kernel in bf16 where the processor has none, and in fp32 where the weight is
    small; else by the library.
    """
    return _weight_gradient(grad_TO, x_TD).contiguous()


def add_weight_gradient(total_OD: torch.Tensor | None, grad_TO: torch.Tensor, x_TD: torch.Tensor) -> torch.Tensor:
    """`weight_gradient` added to what is there, in place; None: nothing is.

    The sum of several calls lies as their products do: dense, or as a dense [D, O].
    """
    found = _weight_gradient(grad_TO, x_TD)
    return found if total_OD is None else total_OD.add_(found)


def _weight_gradient(grad_TO: torch.Tensor, x_TD: torch.Tensor) -> torch.Tensor:
    """[O, D], dense or as a dense [D, O], by the sizes of both."""
    if not (grad_TO.numel() and x_TD.numel()):
        return grad_TO.t() @ x_TD
    dtype, is_bf16 = grad_TO.dtype, grad_TO.dtype == torch.bfloat16
    has_layout = has_library_layout(grad_TO.device, dtype)
    is_known = has_layout and (not is_bf16 or multiplies_bf16())
    is_small = dtype == torch.float32 and grad_TO.shape[1] * x_TD.shape[1] <= SMALL_WEIGHT
    if (is_small or not is_known) and backends.uses_native(grad_TO):
        return native.weight(grad_TO, x_TD)
    if is_bf16 and not is_known and grad_TO.device.type == "cpu":
        return _weight_gradient(grad_TO.float(), x_TD.float()).to(dtype)
    if not has_layout:
        return grad_TO.t() @ x_TD
    # The library has a fast routine for dense operands only, transposed or not.
    grad_TO, x_TD = (x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous() for x in (grad_TO, x_TD))
    # And it copies its first operand where that is transposed: let it be the one with fewer columns.
    if grad_TO.shape[1] > x_TD.shape[1]:
        return linear_once(x_TD.t(), grad_TO.t()).t()
    return linear_once(grad_TO.t(), x_TD.t())


def matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right in their dtype, sums in fp32 (float64), rounded once. No promise of rows: for gradients, optimizers.

    A CPU without bf16 multiplies the widened numbers: the library's own ways to widen them are ten times slower. (Not
    in the portable arithmetic, which has one way on all devices.)
    """
    is_portable = backends.is_portable(left.device)
    if left.dtype == torch.bfloat16 and not is_portable and not multiplies_bf16():
        return (left.float() @ right.float()).to(left.dtype)
    return left @ right


def bias_gradient(grad_TO: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The gradient [O] of a bias of that dtype: the sum over rows in fp32 (float64), rounded once."""
    return grad_TO.sum(0, dtype=torch.promote_types(grad_TO.dtype, torch.float32)).to(dtype)
