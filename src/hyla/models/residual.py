"""What joins a sublayer to the stream: what it reads of it, and how its output goes back in.

The one place for other joins: several streams (hyper-connections), norms behind a module, a sublayer that reads earlier
blocks. A join may have parameters, and its stream may be any tensor whose rows stand for tokens; `stack.run` only hands
it on.
"""

from __future__ import annotations

import torch
from torch import nn

from hyla.models.config import ScaledResidual
from hyla.ops.exact.primitives import weighted_sum


class Residual(nn.Module):
    """The plain join: x + module(norm(x))."""

    def read(self, stream_TD: torch.Tensor) -> torch.Tensor:
        """What the sublayer's norm sees, [T, D]."""
        return stream_TD

    def write(self, stream_TD: torch.Tensor, normed_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor:
        """The stream after the sublayer, from the stream, the normed rows and the module's output."""
        return weighted_sum(stream_TD, y_TD)


class NormedResidual(Residual):
    """alpha norm(x) + beta module(norm(x)): the normed stream goes on, scaled (MiniMax-Text-01), summed in fp32."""

    def __init__(self, alpha: float, beta: float):
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def write(self, stream_TD: torch.Tensor, normed_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor:
        return weighted_sum(normed_TD, y_TD, self.alpha, self.beta)


def build_residual(config: ScaledResidual | None) -> Residual:
    """The join of a `SublayerConfig.residual`."""
    return Residual() if config is None else NormedResidual(config.alpha, config.beta)
