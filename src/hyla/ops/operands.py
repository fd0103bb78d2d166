"""What the choice of a backend may depend on, of each tensor that an operator is given."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Operand(NamedTuple):
    """Never the number of rows: a sequence that began with one backend must go on with it."""

    device: str
    """"cpu", "cuda", ..."""
    dtype: torch.dtype
    width: int | None = None
    """Last dimension; None where only a device and a dtype are asked about."""
