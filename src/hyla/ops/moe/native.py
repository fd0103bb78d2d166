"""Routing and experts by the CPU's own kernels: Python reads nothing between them, no counts either."""

from __future__ import annotations

from hyla.ops import native
from hyla.ops.activations import activate
from hyla.ops.moe.groups import Groups
from hyla.ops.moe.routing import NORMALIZE_EPS
from hyla.ops.native import moes
from hyla.ops.weights.protocol import Weights

unsupported = native.unsupported


def route(logits_TE, bias_E, *, score: str, **options):
    """Weights and ids (see `hyla.ops.moe.route`)."""
    return moes.route(logits_TE, bias_E, is_sigmoid=score == "sigmoid", eps=NORMALIZE_EPS[score], **options)


def forward(x_TD, weights_Tk, ids_Tk, into: Weights, out_of: Weights, activation: str):
    """As in `pytorch.py`; the spans stay where the kernel wrote them."""
    sorted_AD, spans_S3, order_A, rows_A = moes.group(x_TD, ids_Tk, into.shape[0])
    gate_up_AF = into.grouped(sorted_AD, spans_S3)
    act_AI = activate(activation, gate_up_AF)
    y_TD = moes.combine(out_of.grouped(act_AI, spans_S3), rows_A, weights_Tk)
    return y_TD, gate_up_AF, Groups(spans_S3, order_A, rows_A, ids_Tk.shape[1])


def joined(slots_AD, groups: Groups, factors_Tk):
    """As in `pytorch.py`."""
    return moes.combine(slots_AD, groups.rows_A, factors_Tk)


def add_shared(y_TD, shared_TD, gate_T1):
    """`add_shared` (see `hyla.ops.moe`)."""
    return moes.join(y_TD, shared_TD, gate_T1)
