"""State space dual in chunks: the shared walk with summed decays. PyTorch, any device, differentiable, the default."""

from __future__ import annotations

from hyla.ops.backends import runs_anywhere
from hyla.ops.chunks import decay_gradient, decay_walk

unsupported = runs_anywhere

forward, backward = decay_walk.forward, decay_gradient.backward
