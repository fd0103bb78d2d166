"""Element-wise and row-wise functions whose result for a row never depends on the other rows.

PyTorch's own `sigmoid`, `silu` and `softplus` change in the last bit with an element's place in a SIMD tail, and a sum
over a very wide row with the number of rows (`python -m bench invariance` shows); `exp`, `log1p`, `sqrt` and
`+ - * /` do not. The layers use only what is here, and tests/ops/test_primitives.py keeps it so.

Each function has its own gradient: it saves its inputs only, and stays finite where the composed formula's would be
infinity times zero. The forward pass is the same code with and without autograd: the backend's (`pytorch.py`,
`native.py`).
"""

from __future__ import annotations

import torch

from hyla.ops.backends import choose
from hyla.ops.exact.primitives import pytorch
from hyla.ops.exact.primitives.pytorch import wide
from hyla.ops.exact.sums import sum_last

__all__ = [
    "concatenated",
    "exp",
    "l2_norm",
    "relu2",
    "rms_norm",
    "scaled",
    "sigmoid",
    "sigmoid_gate",
    "silu",
    "softmax_last",
    "softplus",
    "sum_last",
    "swiglu",
    "weighted_sum",
    "wide",
]

OPERATOR = "exact.primitives"


def _differentiable(*tensors: torch.Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)), any shape, in x's dtype (callers pass fp32 or float64)."""
    return _Sigmoid.apply(x) if _differentiable(x) else choose(OPERATOR, x).sigmoid(x)


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = choose(OPERATOR, x).sigmoid(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return choose(OPERATOR, y).sigmoid_grad(y, grad)


def silu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(x), computed as x / (1 + exp(-x))."""
    return _Silu.apply(x) if _differentiable(x) else choose(OPERATOR, x).silu(x)


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return choose(OPERATOR, x).silu(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return choose(OPERATOR, x).silu_grad(x, grad)


def swiglu(gate: torch.Tensor, up: torch.Tensor | None = None) -> torch.Tensor:
    """silu(gate) * up in fp32 (float64 for float64), rounded once to the inputs' dtype.

    up: None where `gate` has both beside one another, [.., 2 I]; its gradient is then made as one, too.
    """
    if _differentiable(gate, up):
        return _SwiGLU.apply(gate, up)
    gate, up = _gate_and_up(gate, up)
    return choose(OPERATOR, gate, up).swiglu(gate, up)


def _gate_and_up(gate: torch.Tensor, up: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    return gate.chunk(2, dim=-1) if up is None else (gate, up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        gate, up = _gate_and_up(gate, up)
        return choose(OPERATOR, gate, up).swiglu(gate, up)

    @staticmethod
    def backward(ctx, grad):
        given, given_up = ctx.saved_tensors
        gate, up = _gate_and_up(given, given_up)
        both, _, _ = choose(OPERATOR, gate, up).swiglu_grad(grad, gate, up)
        if given_up is None:
            return both.to(gate.dtype), None
        to_gate, to_up = both.chunk(2, dim=-1)
        return to_gate.to(gate.dtype), to_up.to(up.dtype)


def sigmoid_gate(x: torch.Tensor, gate: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x sigmoid(gate) for fp32 (float64) x and any gate, computed in x's dtype and rounded once to `dtype`."""
    if _differentiable(x, gate):
        return (x * sigmoid(gate.to(x.dtype))).to(dtype)
    return choose(OPERATOR, x, gate).sigmoid_gate(x, gate, dtype)


def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)) without overflow: max(x, 0) + log1p(exp(-|x|))."""
    return _Softplus.apply(x) if _differentiable(x) else choose(OPERATOR, x).softplus(x)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return choose(OPERATOR, x).softplus(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return choose(OPERATOR, x).softplus_grad(x, grad)


def exp(x: torch.Tensor) -> torch.Tensor:
    """e^x of fp32 or float64 x."""
    return _Exp.apply(x) if _differentiable(x) else choose(OPERATOR, x).exp(x)


class _Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = choose(OPERATOR, x).exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * y


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, *, eps: float, zero_centered: bool = False) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * w over the last dimension, computed in fp32 (float64 for float64), in x's dtype.

    w is `weight`, or `1 + weight` when zero_centered (Qwen3-Next), or 1 when None.
    """
    if _differentiable(x, weight):
        return _RMSNorm.apply(x, weight, eps, zero_centered)
    return choose(OPERATOR, x, weight).rms_norm(x, weight, eps, zero_centered)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, zero_centered):
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.zero_centered = eps, zero_centered
        return choose(OPERATOR, x, weight).rms_norm(x, weight, eps, zero_centered)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grads = choose(OPERATOR, x, weight).rms_norm_grad(grad, x, weight, ctx.eps, ctx.zero_centered)
        return *grads, None, None


def l2_norm(x: torch.Tensor, *, eps: float = 1e-6) -> torch.Tensor:
    """x / sqrt(sum(x^2) + eps) over the last dimension (callers pass fp32 or float64)."""
    return _L2Norm.apply(x, eps) if _differentiable(x) else choose(OPERATOR, x).l2_norm(x, eps)


class _L2Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        ctx.save_for_backward(x)
        ctx.eps = eps
        return choose(OPERATOR, x).l2_norm(x, eps)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return choose(OPERATOR, x).l2_norm_grad(grad, x, ctx.eps), None


def softmax_last(x: torch.Tensor) -> torch.Tensor:
    """Softmax over the last dimension of an fp32 or float64 tensor, of any width."""
    return _Softmax.apply(x) if _differentiable(x) else choose(OPERATOR, x).softmax_last(x)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = choose(OPERATOR, x).softmax_last(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return y * (grad - sum_last(grad * y))


def relu2(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0)^2 in fp32 (float64 for float64), rounded once to x's dtype. Plain autograd: every step is exact or
    rounded once per element."""
    return pytorch.relu2(x) if _differentiable(x) else choose(OPERATOR, x).relu2(x)


def concatenated(*parts: torch.Tensor) -> torch.Tensor:
    """Vectors of one dtype after one another. Plain autograd."""
    return torch.cat(parts) if _differentiable(*parts) else choose(OPERATOR, parts[0]).concatenated(*parts)


def scaled(x: torch.Tensor, factor: float, dtype: torch.dtype) -> torch.Tensor:
    """factor x in fp32 (float64 for float64), rounded once to `dtype`; x itself where that changes nothing. Plain
    autograd."""
    if factor == 1.0 and x.dtype == dtype:
        return x
    if _differentiable(x) or torch.float64 in (x.dtype, dtype):
        return pytorch.scaled(x, factor, dtype)
    return choose(OPERATOR, x).scaled(x, factor, dtype)


def weighted_sum(x: torch.Tensor, y: torch.Tensor, alpha: float = 1.0, beta: float = 1.0) -> torch.Tensor:
    """alpha x + beta y of one shape and dtype, in fp32 (float64 for float64), rounded once. Plain autograd."""
    if _differentiable(x, y) or x.dtype != y.dtype:
        return pytorch.weighted_sum(x, y, alpha, beta)
    return choose(OPERATOR, x, y).weighted_sum(x, y, alpha, beta)
