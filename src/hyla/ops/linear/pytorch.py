"""Linear attention in chunks: the shared walk with a decay of one. PyTorch, any device, differentiable, the default.

A value row carries a one behind its channels (and zeros up to `cost.row_width`), so that one product gives S^T q and
z . q, and one state holds S and z.
"""

from __future__ import annotations

from hyla.ops.backends import runs_anywhere
from hyla.ops.chunks import decay_gradient, decay_walk

unsupported = runs_anywhere

forward, backward = decay_walk.forward, decay_gradient.backward
