"""The parameters of Mamba-2 (`layers.mamba2`)."""

from __future__ import annotations

from dataclasses import replace

from hyla.layers.parameters import (
    DECAY_RATE,
    ONES,
    TIME_STEP,
    Axis,
    Segment,
    Table,
    convolution,
    convolution_start,
    heads,
    hidden,
    matrix,
    vector,
)


def parameters(
    hidden_dim: int, *, num_heads: int, head_dim: int, num_groups: int, state_dim: int, conv_len: int
) -> Table:
    """The convolution, with a bias, runs over x, B and C side by side; B and C belong to groups of heads."""
    stream, head = hidden(hidden_dim), heads(num_heads)
    values, keys = (head, Axis("value", head_dim)), (Axis("groups", num_groups, "tensor"), Axis("key", state_dim))
    conv_weight = convolution("conv_weight", conv_len, Segment("x", values), Segment("b", keys), Segment("c", keys))
    conv_bias = vector("conv_bias", *conv_weight.dims[0], start=convolution_start(conv_len))
    return (
        matrix("z.weight", values, stream, product="in"),
        matrix("x.weight", values, stream, product="in"),
        matrix("b.weight", keys, stream, product="in"),
        matrix("c.weight", keys, stream, product="in"),
        matrix("dt.weight", (head,), stream, product="in"),
        vector("norm.weight", *values),
        matrix("o.weight", stream, values, product="out"),
        conv_weight,
        replace(conv_bias, segments=conv_weight.segments),
        vector("A_log", head, start=DECAY_RATE, is_fp32=True),
        vector("D", head, start=ONES, is_fp32=True),
        vector("dt_bias", head, start=TIME_STEP, is_fp32=True),
    )
