"""The parameters of linear attention with elu + 1 (`layers.linear_attention`)."""

from __future__ import annotations

from hyla.layers.parameters import Axis, Table, heads, hidden, matrix


def parameters(hidden_dim: int, *, num_heads: int, key_dim: int, value_dim: int) -> Table:
    """Projections only."""
    stream, head = hidden(hidden_dim), heads(num_heads)
    keys, values = (head, Axis("key", key_dim)), (head, Axis("value", value_dim))
    return (
        matrix("q.weight", keys, stream, product="in"),
        matrix("k.weight", keys, stream, product="in"),
        matrix("v.weight", values, stream, product="in"),
        matrix("o.weight", stream, values, product="out"),
    )
