"""Multi-token prediction: small stacks that guess the tokens after the next one (arXiv 2412.19437 section 2.2).

    x_i = W [norm_e(emb(t_{i+k})) ; norm_h(h_i^{k-1})];  y_i = sublayers(x)_i;  logits of t_{i+k+1} = head(norm(y_i))

for step k = 1, 2, ... (eq. 21 to 25; published weights take the embedding first). Row i of every step keeps position i,
that of its hidden state, so a step's caches lie on the trunk's grid, and row i is a function of t_0 .. t_{i+k} whatever
way they came. Each step attends to rows of its own, also where several steps share weights.

What h is. h^0 is the trunk's hidden state and h^k what step k hands on, each *after* its final norm, unless the config
says "raw" (before it) or "read" (the step hands on what it read). The report leaves it open (its eq. 24 and 25, read
literally, put the norm into the head). transformers and SGLang do as we do, and so does the publishers' code of Ling;
vLLM hands the raw state from one DeepSeek step to the next, and another engine measured fewer accepted drafts that way
(docs/multi-token-prediction.md). MiMo-V2: every step reads the trunk's raw state, as in SGLang.

Position 0. Some engines replace the embedding by zeros in row 0. The formulas do not, nor do we.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from hyla.layers.embedding import Embedding
from hyla.layers.head import Head
from hyla.layers.linear import Linear, Projection
from hyla.layers.module_list import ModuleList
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.models.config import MTPConfig
from hyla.models.stack import Sublayer, build_norm, cache_specs_of, run
from hyla.ops.batch import Batch


class Hidden(NamedTuple):
    """What the trunk or a step leaves for each row, [T, D] both, in the model's dtype; often one tensor twice."""

    head_TD: torch.Tensor
    """What `Model.head_logits` reads."""
    next_TD: torch.Tensor
    """What the next step of multi-token prediction reads."""


class MTPModule(nn.Module):
    """One module: two norms, a projection of both halves, sublayers, a final norm; own embedding and head if any."""

    def __init__(self, config: MTPConfig, hidden_dim: int, vocab_size: int):
        super().__init__()
        self.config = config
        self.embed_norm = build_norm(config.norm, hidden_dim)
        self.hidden_norm = build_norm(config.norm, hidden_dim)
        self.merge = Linear(2 * hidden_dim, hidden_dim)
        self.sublayers: ModuleList[Sublayer] = ModuleList(Sublayer(sub, hidden_dim) for sub in config.sublayers)
        self.norm = build_norm(config.final_norm, hidden_dim)
        self.embed = self.head = None
        self.merge_projection = Projection(self.merge)
        self.projections = (self.merge_projection,)
        if config.has_own_embedding:
            self.embed = Embedding(vocab_size, hidden_dim)
        if config.has_own_head:
            self.head = Head(hidden_dim, vocab_size)

    def cache_specs(self) -> tuple[CacheSpec, ...]:
        """What each mixer of the module keeps."""
        return cache_specs_of(self.sublayers)

    def forward(
        self,
        embedded_TD: torch.Tensor,
        hidden_TD: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache] | None = None,
    ) -> Hidden:
        """Embeddings of the tokens and `next_TD` of the step before (or of the trunk), both [T, D], of equal rows."""
        both_T2D = torch.cat([self.embed_norm(embedded_TD), self.hidden_norm(hidden_TD)], dim=-1)
        raw_TD = run(self.sublayers, self.merge_projection(both_T2D)[0], batch, caches)
        head_TD = self.norm(raw_TD)
        return Hidden(head_TD, {"normed": head_TD, "raw": raw_TD, "read": hidden_TD}[self.config.hands_on])


def earlier(batch: Batch, num_rows: int) -> Batch:
    """The cached batch that ends where `batch` ends and starts `num_rows` earlier in each sequence (not before 0).

    With it an engine computes again the last rows of its drafts: in step k (from 0) the last k committed rows may hold
    tokens that were guessed. Only mixers with pages alone (softmax attention, MLA) can go back like this; all published
    modules have no others.
    """
    starts = tuple(max(start - num_rows, 0) for start in batch.starts)
    lengths = tuple(end - start for start, end in zip(starts, batch.ends))
    return replace(batch, starts=starts, lengths=lengths)
