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
    hidden_dim: int,
    *,
    num_key_heads: int,
    num_value_heads: int,
    key_dim: int,
    value_dim: int,
    conv_len: int,
    output_gate: str = "silu",
    decay: str = "head",
) -> Table:
    """The convolution runs over queries, keys and values side by side. output_gate "none", conv_len 0, decay "none": no
    rows of these."""
    stream, head = hidden(hidden_dim), heads(num_value_heads)
    keys, values = (heads(num_key_heads), Axis("key", key_dim)), (head, Axis("value", value_dim))
    rows = [
        matrix("q.weight", keys, stream, product="in"),
        matrix("k.weight", keys, stream, product="in"),
        matrix("v.weight", values, stream, product="in"),
    ]
    if output_gate != "none":
        rows.append(matrix("z.weight", values, stream, product="in"))
    if decay != "none":
        rows.append(matrix("a.weight", (head,), stream, product="in"))
    rows += [
        matrix("b.weight", (head,), stream, product="in"),
        vector("norm.weight", values[1]),
        matrix("o.weight", stream, values, product="out"),
    ]
    if conv_len:
        segments = (Segment("q", keys), Segment("k", keys), Segment("v", values))
        rows.append(convolution("conv_weight", conv_len, *segments))
    if decay != "none":
        rows.append(vector("A_log", head, start=DECAY_RATE, is_fp32=True))
        rows.append(vector("dt_bias", head, start=TIME_STEP, is_fp32=True))
    return tuple(rows)
