"""The convolution by the CPU's own kernel (ops/native/conv.c): each sequence's rows in turn, the ring read in place."""

from __future__ import annotations

import torch

from hyla.ops import native
from hyla.ops.batch import Batch
from hyla.ops.native import gradients, kernels
from hyla.ops.short_conv import pytorch
from hyla.ops.short_conv.plan import ConvPlan

unsupported = native.unsupported


def forward(x_TC: torch.Tensor, weight_CL: torch.Tensor, batch: Batch, ring=None, tail=None) -> torch.Tensor:
    """Rows [T, C] in fp32; reads the ring, then extends it and sets the tail."""
    return kernels.conv(x_TC.detach(), as_stored(weight_CL), batch.spans_4N, ring, tail)


def backward(grad_TC, x_TC, weight_CL, history_NJC, plan: ConvPlan, wants_state: bool):
    """`pytorch.backward`; with inputs from before the call by its code."""
    if history_NJC is not None:
        return pytorch.backward(grad_TC, x_TC, weight_CL, history_NJC, plan, wants_state)
    grad_x, grad_weight = gradients.conv((grad_TC,), x_TC, weight_CL, plan.spans_4N)
    return grad_x, grad_weight.to(weight_CL.dtype), None


def as_stored(weight_CL: torch.Tensor) -> torch.Tensor:
    """The weight in a dtype that the kernel reads."""
    return weight_CL.detach() if weight_CL.dtype in native.DTYPES else weight_CL.detach().float()
