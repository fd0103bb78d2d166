"""The kernels around attention over a latent (latent.c) as functions on tensors."""

from __future__ import annotations

from ctypes import Structure, c_int64, c_void_p

import torch

from hyla.ops.native.kernels import is_bf16
from hyla.ops.native.launching import empty, launch


class GateHeadsCall(Structure):
    """The struct `Call` of latent.c."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "heads", "width", "gate_row", "gate_bf16", "y_bf16")),
        *((name, c_void_p) for name in ("o", "gate", "y")),
    )


def gate_heads(o_THV: torch.Tensor, gate_TH: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Dense fp32 o [T, H, V] times sigmoid(gate) of each head, rounded once to dtype. Without a gate dtype is bf16."""
    y_THV = empty(o_THV.shape, dtype)
    call = GateHeadsCall(*o_THV.shape, y_bf16=is_bf16(y_THV), o=o_THV.data_ptr(), y=y_THV.data_ptr())
    if gate_TH is not None:
        gate_TH = gate_TH if gate_TH.stride(1) == 1 else gate_TH.contiguous()
        call.gate, call.gate_row, call.gate_bf16 = gate_TH.data_ptr(), gate_TH.stride(0), is_bf16(gate_TH)
    launch("gate_heads", call, o_THV, gate_TH, y_THV)
    return y_THV
