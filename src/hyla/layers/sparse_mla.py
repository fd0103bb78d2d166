"""Multi-head latent attention over the keys that a lightning indexer selects (DeepSeek Sparse Attention)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from hyla.grid import CHUNK
from hyla.layers.layer import Layer
from hyla.layers.lesson import Lesson
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
from hyla.ops.sparse import Selection, index_divergence, select_keys, sparse_attention

INDEX_NORM_EPS = 1e-6
"""Epsilon of the index keys' LayerNorm, in the published code."""


class IndexRows(NamedTuple):
    """Of new rows: index queries and weights in fp32 (float64), keys in the dtype that they are cached in."""

    q_THI: torch.Tensor
    k_TI: torch.Tensor
    weights_TH: torch.Tensor


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
        return self.select(self.rows(x_TD, q_latent_TR, rotary, batch), batch, pages)

    def rows(self, x_TD, q_latent_TR, rotary: RotaryTable | None, batch: Batch) -> IndexRows:
        """What each row scores keys with, and its own key."""
        q_THI = wide(self.q_projection(q_latent_TR)[0]).unflatten(-1, (self.num_heads, self.dim))
        k_T1I = self.k_norm(wide(self.k_projection(x_TD)[0]))[:, None]
        if rotary is not None:
            both = rotate(torch.cat([q_THI, k_T1I], dim=1), rotary(batch, q_THI.dtype))
            q_THI, k_T1I = both.split([self.num_heads, 1], dim=1)
        weights_TH = rows.linear(wide(x_TD), self.weights.to(q_THI.dtype)) * self.num_heads**-0.5
        return IndexRows(q_THI, k_T1I[:, 0].to(x_TD.dtype), weights_TH)

    def select(self, found: IndexRows, batch: Batch, pages: torch.Tensor | None) -> Selection:
        """The keys that every row's attention reads."""
        options = {"batch": batch, "cache": pages, "scale": self.dim**-0.5, "num_selected": self.num_selected}
        return select_keys(*found, **options)

    def divergence(self, found: IndexRows, q_THK, k_TK, batch: Batch, selection: Selection | None, scale: float):
        """[T]: how badly the scores tell what the attention of q and k reads; see `ops.sparse.index_divergence`."""
        options = {"scale": self.dim**-0.5, "attention_scale": scale}
        return index_divergence(*found, q_THK, k_TK, batch=batch, selection=selection, **options)


class SparseMLA(MLA):
    """`MLA` whose tokens attend to at most `num_selected` keys; caches an index key beside the latent."""

    operators = ("latent", "sparse")
    may_expand = False

    def __init__(
        self, hidden_dim: int, *, q_lora_dim: int, num_index_heads: int, index_dim: int, num_selected: int, **mla
    ):
        """mla: the arguments of `MLA`."""
        super().__init__(hidden_dim, q_lora_dim=q_lora_dim, **mla)
        self.indexer = Indexer(
            hidden_dim, q_lora_dim=q_lora_dim, num_heads=num_index_heads, dim=index_dim, num_selected=num_selected
        )
        self.table += within("indexer.", self.indexer.table)
        self.lesson: Lesson | None = None
        """How the indexer learns while the model is trained; None: not at all."""

    def cache_spec(self) -> CacheSpec:
        spec = super().cache_spec()
        index_pages = TensorSpec("index_k", (self.indexer.dim, CHUNK), self.indexer.k.weight.dtype, "kv")
        return replace(spec, page_tensors=(*spec.page_tensors, index_pages))

    def selected(self, x_TD, q_latent_TR, batch: Batch) -> torch.Tensor:
        return self.indexer(x_TD, q_latent_TR, self.rotary, batch, None).positions_TS

    def attend(self, q_THK, k_T1K, x_TD, q_latent_TR, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        """Attention like `MLA.attend`, over the selected latents alone."""
        if self.lesson is not None and cache is None and torch.is_grad_enabled():
            return self._attend_and_teach(self.lesson, q_THK, k_T1K, x_TD, q_latent_TR, batch)
        index_pages, key_pages = (None, None) if cache is None else (cache["index_k"], cache["k"])
        selection = self.indexer(x_TD, q_latent_TR, self.rotary, batch, index_pages)
        return self._attend_selected(q_THK, k_T1K, selection, batch, key_pages)

    def _attend_selected(self, q_THK, k_T1K, selection: Selection, batch: Batch, key_pages) -> torch.Tensor:
        return sparse_attention(
            q_THK,
            k_T1K[:, 0],
            selection,
            batch=batch,
            cache=key_pages,
            scale=self.scale,
            value_dim=self.kv_lora_dim,
        )

    def _attend_and_teach(self, lesson: Lesson, q_THK, k_T1K, x_TD, q_latent_TR, batch: Batch) -> torch.Tensor:
        """Whole sequences. The indexer learns from what it is given, which learns nothing from it."""
        found = self.indexer.rows(x_TD.detach(), q_latent_TR.detach(), self.rotary, batch)
        if lesson.stage == "warmup":
            selection, o_THK = None, super().attend(q_THK, k_T1K, x_TD, q_latent_TR, batch, None)
        else:
            selection = self.indexer.select(found, batch, None)
            o_THK = self._attend_selected(q_THK, k_T1K, selection, batch, None)
        lesson.add(self.indexer.divergence(found, q_THK, k_T1K[:, 0], batch, selection, self.scale))
        return o_THK
