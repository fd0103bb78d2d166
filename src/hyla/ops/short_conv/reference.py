"""The convolution, token by token: the truth that every other form is compared with."""

from __future__ import annotations

import torch

from hyla.ops.batch import Batch


def short_conv_reference(x_TC: torch.Tensor, weight_CL: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Whole sequences (no cache): y_t = sum_j w[:, j] x_{t-(L-1)+j}, inputs before position 0 are zeros."""
    taps = weight_CL.shape[1]
    rows = []
    for offset, length in zip(batch.offsets, batch.lengths):
        for t in range(length):
            y_C = torch.zeros_like(x_TC[0])
            for j in range(taps):
                source = t - (taps - 1) + j
                if source >= 0:
                    y_C = y_C + weight_CL[:, j] * x_TC[offset + source]
            rows.append(y_C)
    return torch.stack(rows)
