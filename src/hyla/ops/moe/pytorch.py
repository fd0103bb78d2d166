"""Experts over rows grouped by expert.

Every (token, slot) pair is a row; rows are sorted by expert (stably), each expert multiplies its rows with the
row-exact product, and the results go back to their slots, which are then added in order. So a token's result is the
same whatever company it comes in.
"""

from __future__ import annotations

from hyla.ops.activations import ACTIVATIONS, activate
from hyla.ops.backends import runs_anywhere
from hyla.ops.moe.groups import Groups
from hyla.ops.weights.protocol import Weights

unsupported = runs_anywhere


def forward(x_TD, weights_Tk, groups: Groups, into: Weights, out_of: Weights, activation: str):
    """The result [T, D] and, for the backward pass, the products with gate and up [A, 2 I] (no gate: up, [A, I])."""
    if x_TD.shape[0] == 0:
        return x_TD.clone(), x_TD
    gate_up_AF = into.grouped(x_TD[groups.tokens_A], groups.spans)
    act_AI = activate(activation, *gate_up_AF.chunk(1 + ACTIVATIONS[activation].has_gate, dim=-1))
    out_AD = out_of.grouped(act_AI, groups.spans)
    slots_TkD = out_AD[groups.rows_A].view(*weights_Tk.shape, -1)
    y_TD = slots_TkD[:, 0] * weights_Tk[:, :1]
    for j in range(1, weights_Tk.shape[1]):
        y_TD += slots_TkD[:, j] * weights_Tk[:, j : j + 1]
    return y_TD.to(x_TD.dtype), gate_up_AF
