"""The parameters of Kimi Delta Attention (`layers.kda`)."""

from __future__ import annotations

from hyla.layers.parameters import (
    DECAY_RATE,
    TIME_STEP,
    Axis,
    Dim,
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
    num_heads: int,
    key_dim: int,
    value_dim: int,
    conv_len: int,
    gate_rank: int | None,
    output_gate: str = "sigmoid",
    decay: str = "channel",
) -> Table:
    """gate_rank: None for whole projections f (decay) and g (output gate) instead of pairs f_a, f_b and g_a, g_b.
    output_gate "none", conv_len 0, decay "none": no rows of these; decay "head": f is one matrix with a row a head."""
    stream, head = hidden(hidden_dim), heads(num_heads)
    keys, values = (head, Axis("key", key_dim)), (head, Axis("value", value_dim))
    rows = [
        matrix("q.weight", keys, stream, product="in"),
        matrix("k.weight", keys, stream, product="in"),
        matrix("v.weight", values, stream, product="in"),
    ]
    if decay == "channel":
        rows += _projection("f", keys, stream, gate_rank, product="decay")
    elif decay == "head":
        rows += _projection("f", (head,), stream, None, product="decay")
    if output_gate != "none":
        rows += _projection("g", values, stream, gate_rank, product="gate")
    rows += [
        matrix("b.weight", (head,), stream, product="in"),
        vector("norm.weight", values[1]),
        matrix("o.weight", stream, values, product="out"),
    ]
    if conv_len:
        segments = (Segment("q", keys), Segment("k", keys), Segment("v", values))
        rows.append(convolution("conv_weight", conv_len, *segments))
    if decay != "none":
        biased = keys if decay == "channel" else (head,)
        rows.append(vector("A_log", head, start=DECAY_RATE, is_fp32=True))
        rows.append(vector("dt_bias", *biased, start=TIME_STEP, is_fp32=True))
    return tuple(rows)


def _projection(name: str, out: Dim, stream: Dim, rank: int | None, *, product: str) -> Table:
    """One matrix, or two with `rank` channels between them, the second a product of its own."""
    if rank is None:
        return (matrix(f"{name}.weight", out, stream, product="in"),)
    between = (Axis("rank", rank),)
    first = matrix(f"{name}_a.weight", between, stream, product="in")
    return first, matrix(f"{name}_b.weight", out, between, product=product)
