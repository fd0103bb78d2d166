"""Multi-token prediction: small stacks that guess the token after the next one (arXiv 2412.19437 section 2.2).

    x_t = W [norm_e(emb(token_{t+1})) ; norm_h(h_t)];  y = sublayers(x);  h'_t = norm(y_t)
    logits of token_{t+2} = head(h'_t)

h_t is the trunk's hidden state *after its final norm*, and a further step takes h'_t, also normed: what vLLM computes
for Qwen3-Next and Qwen3.5. (For DeepSeek vLLM hands h'_t on before the norm and zeroes the embedding at position 0.)
Row t keeps the position t of its hidden state, not that of its token, so a module's caches lie on the trunk's grid,
one row per committed token of the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hyla.layers.linear import Linear, Projection
from hyla.layers.protocol import CacheSpec, LayerCache
from hyla.models.config import MTPConfig
from hyla.models.stack import Sublayer, build_norm, cache_specs_of, run
from hyla.ops.batch import Batch


class MTPModule(nn.Module):
    """One module: two norms, a projection of both halves, sublayers, a final norm; own embedding and head if any."""

    def __init__(self, config: MTPConfig, hidden_dim: int, vocab_size: int):
        super().__init__()
        self.config = config
        self.embed_norm = build_norm(config.norm, hidden_dim)
        self.hidden_norm = build_norm(config.norm, hidden_dim)
        self.merge = Linear(2 * hidden_dim, hidden_dim)
        self.sublayers = nn.ModuleList(Sublayer(sub, hidden_dim) for sub in config.sublayers)
        self.norm = build_norm(config.final_norm, hidden_dim)
        self.embed = self.head = self.head_projection = None
        self.merge_projection = Projection(self.merge)
        self.projections = (self.merge_projection,)
        if config.has_own_embedding:
            self.embed = nn.Embedding.from_pretrained(torch.empty(vocab_size, hidden_dim), freeze=False)
        if config.has_own_head:
            self.head = Linear(hidden_dim, vocab_size)
            self.head_projection = Projection(self.head, dtype=torch.float32)
            self.projections += (self.head_projection,)

    def cache_specs(self) -> tuple[CacheSpec, ...]:
        """What each mixer of the module keeps."""
        return cache_specs_of(self.sublayers)

    def forward(
        self,
        embedded_TD: torch.Tensor,
        hidden_TD: torch.Tensor,
        batch: Batch,
        caches: Sequence[LayerCache] | None = None,
    ) -> torch.Tensor:
        """Embeddings of the next tokens and hidden states, both [T, D] -> hidden states [T, D] for the head.

        hidden_TD: the trunk's (after its final norm), or what an earlier module or step returned.
        """
        both_T2D = torch.cat([self.embed_norm(embedded_TD), self.hidden_norm(hidden_TD)], dim=-1)
        return self.norm(run(self.sublayers, self.merge_projection(both_T2D)[0], batch, caches))

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) projection, embedding and head; the sublayers' own start values."""
        for weight in (self.merge, self.embed, self.head):
            if weight is not None:
                nn.init.normal_(weight.weight, std=std, generator=generator)
        for sublayer in self.sublayers:
            sublayer.module.initialize(std, generator)
