"""Lightning attention by the CPU's own kernel (ops/native/decay.c)."""

from __future__ import annotations

from functools import partial

from hyla.ops import native
from hyla.ops.chunks import decay_native
from hyla.ops.native import decays

unsupported = native.unsupported

FIELDS = {"anchor": "anchor", "k_t": "keys", "v": "v_rows"}
"""The kernel's field for each cache tensor."""

forward = partial(decay_native.forward, decays.CONSTANT, FIELDS)
backward = partial(decay_native.backward, decays.CONSTANT)
