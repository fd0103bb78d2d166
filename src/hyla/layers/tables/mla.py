"""The parameters of multi-head latent attention (`layers.mla`)."""

from __future__ import annotations

from hyla.layers.parameters import Axis, Table, head_matrices, heads, hidden, matrix, vector


def parameters(
    hidden_dim: int,
    *,
    num_heads: int,
    q_lora_dim: int | None,
    kv_lora_dim: int,
    nope_dim: int,
    rope_dim: int,
    value_dim: int,
    head_gate: bool = False,
) -> Table:
    """q_lora_dim: None for a full query projection. kv_a writes the latent, then the shared part of the keys."""
    stream, head = hidden(hidden_dim), heads(num_heads)
    query = (head, Axis("key", nope_dim + rope_dim))
    latent, value = Axis("latent", kv_lora_dim), Axis("value", value_dim)
    if q_lora_dim is None:
        rows = [matrix("q.weight", query, stream, product="in")]
    else:
        rank = Axis("rank", q_lora_dim)
        rows = [
            matrix("q_a.weight", (rank,), stream, product="in"),
            matrix("q_b.weight", query, (rank,), product="q"),
            vector("q_a_norm.weight", rank),
        ]
    rows += [
        matrix("kv_a.weight", (Axis("latent", kv_lora_dim + rope_dim),), stream, product="in"),
        vector("kv_norm.weight", latent),
    ]
    if head_gate:
        rows.append(matrix("gate.weight", (head,), stream, product="in"))
    nope = Axis("key", nope_dim)
    return (
        *rows,
        matrix("o.weight", stream, (head, value), product="out"),
        head_matrices("k_up", ((head,), (nope,), (latent,)), product="k_up", in_place=-2),
        head_matrices("v_up", ((head,), (value,), (latent,)), product="v_up", in_place=-1),
    )
