"""The parameters of Kimi Delta Attention (`layers.kda`)."""

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
    hidden_dim: int, *, num_heads: int, key_dim: int, value_dim: int, conv_len: int, gate_rank: int | None
) -> Table:
    """gate_rank: None for whole projections f (decay) and g (output gate) instead of pairs f_a, f_b and g_a, g_b."""
    stream, head = hidden(hidden_dim), heads(num_heads)
    keys, values = (head, Axis("key", key_dim)), (head, Axis("value", value_dim))
    if gate_rank is None:
        gates = [matrix("f.weight", keys, stream, product="in"), matrix("g.weight", values, stream, product="in")]
    else:
        rank = (Axis("rank", gate_rank),)
        gates = [
            matrix("f_a.weight", rank, stream, product="in"),
            matrix("f_b.weight", keys, rank, product="decay"),
            matrix("g_a.weight", rank, stream, product="in"),
            matrix("g_b.weight", values, rank, product="gate"),
        ]
    return (
        matrix("q.weight", keys, stream, product="in"),
        matrix("k.weight", keys, stream, product="in"),
        matrix("v.weight", values, stream, product="in"),
        *gates,
        matrix("b.weight", (head,), stream, product="in"),
        vector("norm.weight", values[1]),
        matrix("o.weight", stream, values, product="out"),
        convolution("conv_weight", conv_len, Segment("q", keys), Segment("k", keys), Segment("v", values)),
        vector("A_log", head, start=DECAY_RATE, is_fp32=True),
        vector("dt_bias", *keys, start=TIME_STEP, is_fp32=True),
    )
