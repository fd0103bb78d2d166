"""State space dual in chunks: the shared walk with summed decays. PyTorch, any device, differentiable, the default."""

from __future__ import annotations

from hyla.ops.backends import runs_anywhere
from hyla.ops.chunks import decay_walk

unsupported = runs_anywhere

forward = decay_walk.forward
