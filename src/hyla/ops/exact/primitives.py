"""Element-wise and row-wise functions whose result for a row never depends on the other rows.

PyTorch's own `sigmoid`, `silu` and `softplus` change in the last bit with an element's place in a SIMD tail, and a sum
over a very wide row with the number of rows (bench/invariance.py shows which do); `exp`, `log1p`, `sqrt` and
`+ - * /` do not. The layers use only what is here, and tests/ops/test_primitives.py keeps it so.

Each function has its own gradient: it saves its inputs only, and stays finite where the composed formula's would be
infinity times zero. The forward pass is the same code with and without autograd.
"""

from __future__ import annotations

import torch

from hyla.ops import native
from hyla.ops.native import kernels

SUM_BLOCK = 4096
"""Widest row that is summed in one library call; wider rows are sums of such blocks."""


def _differentiable(*tensors: torch.Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def wide(x: torch.Tensor) -> torch.Tensor:
    """x in fp32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def sum_last(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension, which is kept: [..., W] -> [..., 1]. Plain autograd."""
    x = x.contiguous()
    if x.shape[-1] <= SUM_BLOCK:
        return x.sum(-1, keepdim=True)
    x = torch.nn.functional.pad(x, (0, -x.shape[-1] % SUM_BLOCK))
    return sum_last(x.unflatten(-1, (-1, SUM_BLOCK)).sum(-1))


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)), any shape, in x's dtype (callers pass fp32 or float64)."""
    return _Sigmoid.apply(x) if _differentiable(x) else _sigmoid(x)


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    if x.dtype == torch.float32 and native.handles(x):
        return kernels.unary("sigmoid", x)
    return 1.0 / x.neg().exp_().add_(1.0)


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = _sigmoid(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * y * (1.0 - y)


def silu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(x), computed as x / (1 + exp(-x))."""
    return _Silu.apply(x) if _differentiable(x) else _silu(x)


def _silu(x: torch.Tensor) -> torch.Tensor:
    if x.dtype == torch.float32 and native.handles(x):
        return kernels.unary("silu", x)
    return x / x.neg().exp_().add_(1.0)


def _silu_backward(x: torch.Tensor) -> torch.Tensor:
    """Derivative of silu."""
    y = _sigmoid(x)
    return y * (1.0 + x * (1.0 - y))


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return _silu(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * _silu_backward(*ctx.saved_tensors)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up in fp32 (float64 for float64), rounded once to the inputs' dtype."""
    return _SwiGLU.apply(gate, up) if _differentiable(gate, up) else _swiglu(gate, up)


def _swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    if gate.dtype == up.dtype and native.handles(up):
        return kernels.swiglu(gate, up)
    return _silu(wide(gate)).mul_(up).to(up.dtype)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return _swiglu(gate, up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = (wide(tensor) for tensor in ctx.saved_tensors)
        return (grad * up * _silu_backward(gate)).to(grad.dtype), (grad * _silu(gate)).to(grad.dtype)


def sigmoid_gate(x: torch.Tensor, gate: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x sigmoid(gate) for fp32 (float64) x and any gate, computed in x's dtype and rounded once to `dtype`."""
    if x.dtype == torch.float32 and not _differentiable(x, gate) and native.handles(x) and native.handles(gate):
        return kernels.sigmoid_gate(x, gate, dtype)
    return (x * sigmoid(gate.to(x.dtype))).to(dtype)


def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)) without overflow: max(x, 0) + log1p(exp(-|x|))."""
    return _Softplus.apply(x) if _differentiable(x) else _softplus(x)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    return x.abs().neg_().exp_().log1p_().add_(x.clamp_min(0.0))


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return _softplus(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * _sigmoid(*ctx.saved_tensors)


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, *, eps: float, zero_centered: bool = False) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * w over the last dimension, computed in fp32 (float64 for float64), in x's dtype.

    w is `weight`, or `1 + weight` when zero_centered (Qwen3-Next), or 1 when None.
    """
    if _differentiable(x, weight):
        return _RMSNorm.apply(x, weight, eps, zero_centered)
    return _rms_norm(x, weight, eps, zero_centered)


def _root_mean_square(x: torch.Tensor, eps: float) -> torch.Tensor:
    return sum_last(x * x).div_(x.shape[-1]).add_(eps).sqrt_()


def _scale(weight: torch.Tensor, dtype: torch.dtype, zero_centered: bool) -> torch.Tensor:
    return weight.to(dtype) + 1.0 if zero_centered else weight.to(dtype)


def _rms_norm(x, weight, eps: float, zero_centered: bool) -> torch.Tensor:
    if native.handles(x) and (weight is None or native.handles(weight)):
        return kernels.norm(x, weight, shift=float(zero_centered), eps=eps, divisor=x.shape[-1])
    values = wide(x)
    normed = values / _root_mean_square(values, eps)
    if weight is not None:
        normed *= _scale(weight, values.dtype, zero_centered)
    return normed.to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, zero_centered):
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.zero_centered = eps, zero_centered
        return _rms_norm(x, weight, eps, zero_centered)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        values, grad = wide(x), wide(grad)
        root = _root_mean_square(values, ctx.eps)
        normed = values / root
        grad_weight = None
        if weight is not None:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
            grad = grad * _scale(weight, values.dtype, ctx.zero_centered)
        grad_x = (grad - normed * (grad * normed).mean(-1, keepdim=True)) / root
        return grad_x.to(x.dtype), grad_weight, None, None


def l2_norm(x: torch.Tensor, *, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(sum(x^2) + eps) over the last dimension (callers pass fp32 or float64)."""
    return _L2Norm.apply(x, eps) if _differentiable(x) else _l2_norm(x, eps)


def _root_sum_square(x: torch.Tensor, eps: float) -> torch.Tensor:
    return sum_last(x * x).add_(eps).sqrt_()


def _l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    if x.dtype == torch.float32 and native.handles(x):
        return kernels.norm(x, None, shift=0.0, eps=eps, divisor=1.0)
    return x / _root_sum_square(x, eps)


class _L2Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        ctx.save_for_backward(x)
        ctx.eps = eps
        return _l2_norm(x, eps)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        root = _root_sum_square(x, ctx.eps)
        normed = x / root
        return (grad - normed * (grad * normed).sum(-1, keepdim=True)) / root, None


def softmax_last(x: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension of an fp32 or float64 tensor, of any width."""
    return _Softmax.apply(x) if _differentiable(x) else _softmax(x)


def _softmax(x: torch.Tensor) -> torch.Tensor:
    weights = (x - x.amax(-1, keepdim=True)).exp_()
    return weights / sum_last(weights)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = _softmax(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return y * (grad - (grad * y).sum(-1, keepdim=True))


def log_softmax_last(x: torch.Tensor) -> torch.Tensor:
    """log of the softmax over the last dimension of an fp32 or float64 tensor, of any width (a vocabulary)."""
    shifted = x - x.detach().amax(-1, keepdim=True)
    return shifted - sum_last(torch.exp(shifted)).log()


def relu2(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0)^2 in fp32 (float64 for float64), rounded once to x's dtype. Plain autograd: every step is exact or
    rounded once per element."""
    positive = wide(x).clamp_min(0.0)
    return (positive * positive).to(x.dtype)
