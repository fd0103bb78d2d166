"""The parameters of lightning attention (`layers.lightning`)."""

from __future__ import annotations

from hyla.layers.parameters import Axis, Table, heads, hidden, matrix, vector


def parameters(hidden_dim: int, *, num_heads: int, head_dim: int, has_qk_norm: bool, has_gate: bool = True) -> Table:
    """Keys and values of a head are equally wide."""
    stream, key = hidden(hidden_dim), Axis("key", head_dim)
    width = (heads(num_heads), key)
    names = ("q", "k", "v", "gate") if has_gate else ("q", "k", "v")
    qk_norms = (vector("q_norm.weight", key), vector("k_norm.weight", key)) if has_qk_norm else ()
    return (
        *(matrix(f"{name}.weight", width, stream, product="in") for name in names),
        *qk_norms,
        vector("norm.weight", *width),
        matrix("o.weight", stream, width, product="out"),
    )
