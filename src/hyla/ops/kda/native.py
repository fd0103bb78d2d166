"""Kimi Delta Attention by the CPU's own kernel (ops/native/delta.c, delta_grad.c)."""

from __future__ import annotations

from functools import partial

from hyla.ops import native
from hyla.ops.chunks import delta_native

unsupported = native.unsupported

FIELDS = {
    "anchor": "anchor",
    "u": "u",
    "k_rows": "keys",
    "decay_rows": "decay_rows",
    "k_scaled": "k_scaled",
    "block_sum": "block_sum",
}
"""The kernel's field for each cache tensor."""

forward = partial(delta_native.forward, FIELDS)
backward = delta_native.backward
