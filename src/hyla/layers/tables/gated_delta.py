"""The parameters of Gated DeltaNet (`layers.gated_delta`)."""

from __future__ import annotations

from hyla.layers.parameters import (
    DECAY_RATE,
    TIME_STEP,
    Axis,
    Segment,
    Table,
    convolution,
    heads,
    hidden,
    matrix,
    vector,
)


def parameters(
    hidden_dim: int, *, num_key_heads: int, num_value_heads: int, key_dim: int, value_dim: int, conv_len: int
) -> Table:
    """The convolution runs over queries, keys and values side by side."""
    stream, head = hidden(hidden_dim), heads(num_value_heads)
    keys, values = (heads(num_key_heads), Axis("key", key_dim)), (head, Axis("value", value_dim))
    return (
        matrix("q.weight", keys, stream, product="in"),
        matrix("k.weight", keys, stream, product="in"),
        matrix("v.weight", values, stream, product="in"),
        matrix("z.weight", values, stream, product="in"),
        matrix("a.weight", (head,), stream, product="in"),
        matrix("b.weight", (head,), stream, product="in"),
        vector("norm.weight", values[1]),
        matrix("o.weight", stream, values, product="out"),
        convolution("conv_weight", conv_len, Segment("q", keys), Segment("k", keys), Segment("v", values)),
        vector("A_log", head, start=DECAY_RATE, is_fp32=True),
        vector("dt_bias", head, start=TIME_STEP, is_fp32=True),
    )
