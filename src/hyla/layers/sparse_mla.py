"""Multi-head latent attention over the keys that a lightning indexer selects (DeepSeek Sparse Attention)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from hyla.grid import CHUNK
from hyla.layers.layer import Layer
from hyla.layers.linear import Linear, Projection
from hyla.layers.mla import MLA
from hyla.layers.norms import LayerNorm
from hyla.layers.parameters import within
from hyla.layers.protocol import CacheSpec, LayerCache, TensorSpec
from hyla.layers.rope import RotaryTable
from hyla.layers.tables.sparse_mla import indexer_parameters
from hyla.ops.batch import Batch
from hyla.ops.exact import rows
from hyla.ops.exact.primitives import wide
from hyla.ops.rotary import rotate
from hyla.ops.sparse import Selection, select_keys, sparse_attention

INDEX_NORM_EPS = 1e-6
"""Epsilon of the index keys' LayerNorm, in the published code."""


class Indexer(Layer):
    """Scores sum_h w_h relu(q_h . k I^-0.5) with q = rope(q_b q_latent), k = rope(norm(k x)), w = (weights x) H^-0.5.

    The rotation is by halves on the leading channels, whatever the attention's is; the weights are fp32. The published
    code also rotates q and k by a Hadamard matrix before it quantises them: the same scores in exact arithmetic.
    Source: DeepSeek-V3.2, arXiv 2512.02556, section 2.1.
    """

    k: Linear
    k_norm: LayerNorm
    weights: torch.Tensor
    q_projection: Projection
    k_projection: Projection

    def __init__(self, hidden_dim: int, *, q_lora_dim: int, num_heads: int, dim: int, num_selected: int):
        table = indexer_parameters(hidden_dim, q_lora_dim=q_lora_dim, num_heads=num_heads, dim=dim)
        super().__init__(table, norms={"k_norm": partial(LayerNorm, eps=INDEX_NORM_EPS)})
        self.num_heads, self.dim, self.num_selected = num_heads, dim, num_selected

    @torch.no_grad()
    def forward(self, x_TD, q_latent_TR, rotary: RotaryTable | None, batch: Batch, pages) -> Selection:
        """pages: [P, I, 64] index keys, extended in place, or None. The selection is a constant of training."""
        q_THI = wide(self.q_projection(q_latent_TR)[0]).unflatten(-1, (self.num_heads, self.dim))
        k_T1I = self.k_norm(wide(self.k_projection(x_TD)[0]))[:, None]
        if rotary is not None:
            both = rotate(torch.cat([q_THI, k_T1I], dim=1), rotary(batch, q_THI.dtype))
            q_THI, k_T1I = both.split([self.num_heads, 1], dim=1)
        weights_TH = rows.linear(wide(x_TD), self.weights.to(q_THI.dtype)) * self.num_heads**-0.5
        return select_keys(
            q_THI,
            k_T1I[:, 0].to(x_TD.dtype),
            weights_TH,
            batch=batch,
            cache=pages,
            scale=self.dim**-0.5,
            num_selected=self.num_selected,
        )


class SparseMLA(MLA):
    """`MLA` whose tokens attend to at most `num_selected` keys; caches an index key beside the latent."""

    operators = ("latent", "sparse")

    def __init__(
        self, hidden_dim: int, *, q_lora_dim: int, num_index_heads: int, index_dim: int, num_selected: int, **mla
    ):
        """mla: the arguments of `MLA`."""
        super().__init__(hidden_dim, q_lora_dim=q_lora_dim, **mla)
        self.indexer = Indexer(
            hidden_dim, q_lora_dim=q_lora_dim, num_heads=num_index_heads, dim=index_dim, num_selected=num_selected
        )
        self.table += within("indexer.", self.indexer.table)

    def cache_spec(self) -> CacheSpec:
        spec = super().cache_spec()
        index_pages = TensorSpec("index_k", (self.indexer.dim, CHUNK), self.indexer.k.weight.dtype, "kv")
        return replace(spec, page_tensors=(*spec.page_tensors, index_pages))

    def selected(self, x_TD, q_latent_TR, batch: Batch) -> torch.Tensor:
        return self.indexer(x_TD, q_latent_TR, self.rotary, batch, None).positions_TS

    def attend(self, q_THK, k_T1K, x_TD, q_latent_TR, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        """Attention like `MLA.attend`, over the selected latents alone."""
        index_pages, key_pages = (None, None) if cache is None else (cache["index_k"], cache["k"])
        selection = self.indexer(x_TD, q_latent_TR, self.rotary, batch, index_pages)
        return sparse_attention(
            q_THK,
            k_T1K[:, 0],
            selection,
            batch=batch,
            cache=key_pages,
            scale=self.scale,
            value_dim=self.kv_lora_dim,
        )
