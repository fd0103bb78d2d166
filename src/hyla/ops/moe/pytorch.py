"""Experts over rows grouped by expert.

Every (token, slot) pair is a row; rows are sorted by expert (stably), each expert multiplies its rows with the
row-exact product, and the results go back to their slots, which are then added in order. So a token's result is the
same whatever company it comes in.
"""

from __future__ import annotations

from hyla.ops.activations import activate
from hyla.ops.backends import runs_anywhere
from hyla.ops.exact.primitives import sigmoid, wide
from hyla.ops.moe.groups import Groups, group_rows
from hyla.ops.moe.routing import select, weigh
from hyla.ops.weights.protocol import Weights

unsupported = runs_anywhere


def route(logits_TE, bias_E, *, num_chosen, score, normalize, num_groups, num_groups_kept, scaling):
    """Weights and ids (see `hyla.ops.moe.route`)."""
    groups = {"num_groups": num_groups, "num_groups_kept": num_groups_kept}
    scores_TE, ids_Tk = select(logits_TE, bias_E, num_chosen=num_chosen, score=score, **groups)
    return weigh(scores_TE, ids_Tk, score=score, normalize=normalize, scaling=scaling), ids_Tk


def forward(x_TD, weights_Tk, ids_Tk, into: Weights, out_of: Weights, activation: str):
    """The result [T, D]; for the backward pass the products with gate and up [A, 2 I] (no gate: [A, I]), and groups."""
    groups = group_rows(ids_Tk, into.shape[0])
    gate_up_AF = into.grouped(x_TD[groups.tokens_A], groups.spans)
    act_AI = activate(activation, gate_up_AF)
    out_AD = out_of.grouped(act_AI, groups.spans)
    return joined(out_AD, groups, weights_Tk), gate_up_AF, groups


def joined(slots_AD, groups: Groups, factors_Tk):
    """The sum over each token's slots in their order, times their factors, in fp32 (float64), rounded once: [T, D]."""
    slots_TkD = slots_AD[groups.rows_A].view(*factors_Tk.shape, -1)
    y_TD = slots_TkD[:, 0] * factors_Tk[:, :1]
    for j in range(1, factors_Tk.shape[1]):
        y_TD += slots_TkD[:, j] * factors_Tk[:, j : j + 1]
    return y_TD.to(slots_AD.dtype)


def add_shared(y_TD, shared_TD, gate_T1):
    """`add_shared` (see `hyla.ops.moe`)."""
    if gate_T1 is None:
        return y_TD + shared_TD
    return (y_TD + shared_TD * sigmoid(wide(gate_T1))).to(y_TD.dtype)
