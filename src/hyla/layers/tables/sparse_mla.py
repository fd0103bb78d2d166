"""The parameters of MLA with a lightning indexer (`layers.sparse_mla`)."""

from __future__ import annotations

from hyla.layers.parameters import ONES, ZEROS, Axis, Parameter, Table, heads, hidden, matrix, vector, within
from hyla.layers.tables import mla


def indexer_parameters(hidden_dim: int, *, q_lora_dim: int, num_heads: int, dim: int) -> Table:
    """The indexer's own: queries from the query's latent, one key, the heads' weights in fp32."""
    stream, head, key = hidden(hidden_dim), heads(num_heads), Axis("key", dim)
    weights = Parameter(
        "weights", ((head,), stream), is_fp32=True, is_decayed=True, muon="matrix", product="index_weights"
    )
    return (
        matrix("q_b.weight", (head, key), (Axis("rank", q_lora_dim),), product="q"),
        matrix("k.weight", (key,), stream, product="k"),
        vector("k_norm.weight", key, start=ONES, is_fp32=True),
        vector("k_norm.bias", key, start=ZEROS, is_fp32=True),
        weights,
    )


def parameters(hidden_dim: int, *, q_lora_dim: int, num_index_heads: int, index_dim: int, **attention) -> Table:
    """attention: the other numbers of `mla.parameters`."""
    indexer = indexer_parameters(hidden_dim, q_lora_dim=q_lora_dim, num_heads=num_index_heads, dim=index_dim)
    return (*mla.parameters(hidden_dim, q_lora_dim=q_lora_dim, **attention), *within("indexer.", indexer))
