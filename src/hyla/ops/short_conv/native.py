"""The convolution by the CPU's own kernel (ops/native/conv.c): each sequence's rows in turn, the ring read in place."""

from __future__ import annotations

import torch

from hyla.ops import native
from hyla.ops.native import kernels
from hyla.ops.short_conv.plan import ConvPlan
from hyla.ops.short_conv.pytorch import taps_first

unsupported = native.unsupported


def forward(x_TC: torch.Tensor, weight_CL: torch.Tensor, plan: ConvPlan, ring: torch.Tensor | None) -> torch.Tensor:
    """Rows [T, C] in fp32; reads the ring, then extends it."""
    x_TC = x_TC.detach()
    return kernels.conv(x_TC, taps_first(weight_CL, x_TC.dtype), plan.spans_4N, ring)
