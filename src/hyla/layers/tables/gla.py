"""The parameters of gated linear attention (`layers.gla`)."""

from __future__ import annotations

import math
from dataclasses import replace

from hyla.layers.parameters import Axis, Parameter, Start, Table, heads, hidden, matrix, vector

XAVIER_GAIN = 2**-2.5
"""Gain of the start values of queries, keys and both halves of the decay, in the code of the paper's authors."""


def _uniform(row: Parameter, bound: float) -> Parameter:
    return replace(row, start=Start("uniform", -bound, bound))


def _xavier(row: Parameter) -> Parameter:
    """Uniform with the variance gain^2 2 / (in + out)."""
    return _uniform(row, XAVIER_GAIN * math.sqrt(6.0 / (row.in_dim + row.out_dim)))


def _default(row: Parameter) -> Parameter:
    """The row as that code leaves a linear layer: uniform within 1 / sqrt(in), PyTorch's start."""
    return _uniform(row, row.in_dim**-0.5)


def parameters(
    hidden_dim: int,
    *,
    num_heads: int,
    key_dim: int,
    value_dim: int,
    gate_rank: int,
    output_gate: str = "silu",
    decay: str = "channel",
) -> Table:
    """f_a and f_b are the halves of the decay's projection, which has a bias; decay "head": one matrix f with a row a
    head. output_gate "none", decay "none": no rows of these. Start values: as released (see above)."""
    stream, head, rank = hidden(hidden_dim), heads(num_heads), (Axis("rank", gate_rank),)
    keys, values = (head, Axis("key", key_dim)), (head, Axis("value", value_dim))
    bound = gate_rank**-0.5
    rows = [
        _xavier(matrix("q.weight", keys, stream, product="in")),
        _xavier(matrix("k.weight", keys, stream, product="in")),
        _default(matrix("v.weight", values, stream, product="in")),
    ]
    if output_gate != "none":
        rows.append(_default(matrix("gate.weight", values, stream, product="in")))
    if decay == "channel":
        rows.append(_xavier(matrix("f_a.weight", rank, stream, product="in")))
        rows.append(_xavier(matrix("f_b.weight", keys, rank, product="decay")))
    elif decay == "head":
        rows.append(_xavier(matrix("f.weight", (head,), stream, product="in")))
    if decay != "none":
        biased = keys if decay == "channel" else (head,)
        rows.append(vector("decay_bias", *biased, start=Start("uniform", -bound, bound), is_fp32=True))
    rows.append(vector("norm.weight", values[1]))
    rows.append(_default(matrix("o.weight", stream, values, product="out")))
    return tuple(rows)
