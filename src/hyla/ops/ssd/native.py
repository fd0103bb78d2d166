"""The state space dual by the CPU's own kernel (ops/native/decay.c)."""

from __future__ import annotations

from functools import partial

from hyla.ops import native
from hyla.ops.chunks import decay_native
from hyla.ops.native import decays

unsupported = native.unsupported

FIELDS = {"anchor": "anchor", "v": "v_rows", "k_t": "keys", "decay_sum": "sums"}
"""The kernel's field for each cache tensor."""

forward = partial(decay_native.forward, decays.SUMMED, FIELDS)
backward = partial(decay_native.backward, decays.SUMMED)
