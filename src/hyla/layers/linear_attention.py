"""Linear attention with phi = elu + 1, as in "Transformers are RNNs" (arXiv 2006.16236)."""

from __future__ import annotations

import torch
from torch import nn

from hyla.layers.linear import Linear, Projection
from hyla.layers.protocol import CacheSpec, LayerCache, TensorSpec
from hyla.ops.batch import Batch
from hyla.ops.exact.primitives import wide
from hyla.ops.linear import cache_tensors, elu_plus_one, linear_attention


class LinearAttention(nn.Module):
    """o(S^T phi(q x) / (z . phi(q x) + eps)): a sum of outer products without decay, normalised; fp32 inside."""

    fp32_parameters: tuple[str, ...] = ()
    operators = ("linear",)

    def __init__(self, hidden_dim: int, *, num_heads: int, key_dim: int, value_dim: int, eps: float):
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim, self.eps = num_heads, key_dim, value_dim, eps
        self.q, self.k = Linear(hidden_dim, num_heads * key_dim), Linear(hidden_dim, num_heads * key_dim)
        self.v, self.o = Linear(hidden_dim, num_heads * value_dim), Linear(num_heads * value_dim, hidden_dim)
        self.in_projection, self.out_projection = Projection(self.q, self.k, self.v), Projection(self.o)
        self.projections = (self.in_projection, self.out_projection)

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return CacheSpec(slot_tensors=tuple(TensorSpec(*fields) for fields in tensors))

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        q, k, v = (wide(x).unflatten(-1, (self.num_heads, -1)) for x in self.in_projection(x_TD))
        o_THV = linear_attention(elu_plus_one(q), elu_plus_one(k), v, batch=batch, cache=cache, eps=self.eps)
        return self.out_projection(o_THV.flatten(1).to(x_TD.dtype))[0]

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) projections."""
        for linear in (self.q, self.k, self.v, self.o):
            nn.init.normal_(linear.weight, std=std, generator=generator)
