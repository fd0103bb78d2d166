"""The parameters of Mamba-2 (`layers.mamba2`)."""

from __future__ import annotations

from dataclasses import replace

from hyla.layers.parameters import (
    DECAY_RATE,
    ONES,
    TIME_STEP,
    Axis,
    Dim,
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
    hidden_dim: int,
    *,
    num_heads: int,
    head_dim: int,
    num_groups: int,
    state_dim: int,
    conv_len: int,
    output_gate: str = "silu",
) -> Table:
    """The convolution, with a bias, runs over x, B and C side by side; B and C belong to groups of heads. output_gate
    "none": no z; conv_len 0: neither the convolution nor its bias."""
    stream, head = hidden(hidden_dim), heads(num_heads)
    values, keys = (head, Axis("value", head_dim)), (Axis("groups", num_groups, "tensor"), Axis("key", state_dim))
    return (
        *([matrix("z.weight", values, stream, product="in")] if output_gate != "none" else []),
        matrix("x.weight", values, stream, product="in"),
        matrix("b.weight", keys, stream, product="in"),
        matrix("c.weight", keys, stream, product="in"),
        matrix("dt.weight", (head,), stream, product="in"),
        vector("norm.weight", *values),
        matrix("o.weight", stream, values, product="out"),
        *(_convolution(conv_len, values, keys) if conv_len else ()),
        vector("A_log", head, start=DECAY_RATE, is_fp32=True),
        vector("D", head, start=ONES, is_fp32=True),
        vector("dt_bias", head, start=TIME_STEP, is_fp32=True),
    )


def _convolution(taps: int, values: Dim, keys: Dim) -> Table:
    weight = convolution("conv_weight", taps, Segment("x", values), Segment("b", keys), Segment("c", keys))
    conv_bias = vector("conv_bias", *weight.dims[0], start=convolution_start(taps))
    return weight, replace(conv_bias, segments=weight.segments)
