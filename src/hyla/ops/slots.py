"""What a mixer keeps of one sequence, as the operators name it: tensors of a slot, before anything holds them."""

from __future__ import annotations

from typing import Literal

import torch

Role = Literal["kv", "anchor", "open", "conv", "tail"]
"""What a cached tensor is for; `layers.protocol.TensorSpec` says what each means."""

SlotTensors = tuple[tuple[str, tuple[int, ...], torch.dtype, Role], ...]
"""(name, shape, dtype, role) of each tensor."""
