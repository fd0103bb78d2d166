"""The parameters of softmax attention (`layers.softmax`)."""

from __future__ import annotations

from typing import Literal

from hyla.layers.parameters import NORMAL, Axis, Table, bias, heads, hidden, matrix, vector


def parameters(
    hidden_dim: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    value_dim: int | None = None,
    has_output_gate: bool = False,
    qk_norm_scope: Literal["head", "projection"] | None = None,
    has_sinks: bool = False,
    qkv_bias: bool = False,
    out_bias: bool = False,
) -> Table:
    """value_dim: None for head_dim. qk_norm_scope: what QK-norm takes as one vector; None: there is no QK-norm.
    qkv_bias, out_bias: of the projections of queries, keys and values, and of the output's."""
    stream, query, group = hidden(hidden_dim), heads(num_heads), heads(num_kv_heads)
    key, value = Axis("key", head_dim), Axis("value", value_dim or head_dim)
    rows = [
        matrix("q.weight", (query, key), stream, product="in"),
        matrix("k.weight", (group, key), stream, product="in"),
        matrix("v.weight", (group, value), stream, product="in"),
    ]
    if has_output_gate:
        rows.append(matrix("gate.weight", (query, value), stream, product="in"))
    rows.append(matrix("o.weight", stream, (query, value), product="out"))
    if qk_norm_scope == "head":
        rows += [vector("q_norm.weight", key), vector("k_norm.weight", key)]
    elif qk_norm_scope == "projection":
        rows += [vector("q_norm.weight", query, key), vector("k_norm.weight", group, key)]
    if has_sinks:
        rows.append(vector("sinks", query, start=NORMAL, is_fp32=True))
    if qkv_bias:
        rows += [bias("q", query, key), bias("k", group, key), bias("v", group, value)]
    if out_bias:
        rows.append(bias("o", *stream))
    return tuple(rows)
