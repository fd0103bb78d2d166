"""Dequantisation number by number: the truth that the blockwise form is compared with."""

from __future__ import annotations

import torch


def dequantise_reference(codes_OD: torch.Tensor, scale_AB: torch.Tensor) -> torch.Tensor:
    """w[o, d] = codes[o, d] scale[o // 128, d // 128] in float64."""
    whole = torch.empty(codes_OD.shape, dtype=torch.float64)
    for o, row in enumerate(codes_OD.to(torch.float64)):
        for d, code in enumerate(row):
            whole[o, d] = code * scale_AB[o // 128, d // 128].to(torch.float64)
    return whole
