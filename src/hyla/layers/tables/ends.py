"""The parameters around the mixers: norms, embedding, head, and what multi-token prediction merges."""

from __future__ import annotations

from dataclasses import replace

from hyla.layers.parameters import Axis, Parameter, Table, hidden, matrix, vector


def norm(hidden_dim: int) -> Table:
    """A norm of the residual stream."""
    return (vector("norm.weight", *hidden(hidden_dim)),)


def embedding(hidden_dim: int, *, vocab_size: int) -> Table:
    """Rows are looked up one by one: neither decayed nor orthogonalised."""
    return (Parameter("embed.weight", ((Axis("vocab", vocab_size, "tensor"),), hidden(hidden_dim))),)


def head(hidden_dim: int, *, vocab_size: int) -> Table:
    """Scored row by row, in fp32 products: AdamW's. Never quantised, since the loss reads it plain."""
    vocab = (Axis("vocab", vocab_size, "tensor"),)
    row = matrix("head.weight", vocab, hidden(hidden_dim), product="head")
    return (replace(row, muon=None, is_quantisable=False),)


def merge(hidden_dim: int) -> Table:
    """Multi-token prediction: the norms of embedding and hidden state, and the projection of both."""
    both = (Axis("halves", 2), *hidden(hidden_dim))
    return (
        vector("embed_norm.weight", *hidden(hidden_dim)),
        vector("hidden_norm.weight", *hidden(hidden_dim)),
        matrix("merge.weight", hidden(hidden_dim), both, product="merge"),
    )
