"""Linear attention with phi = elu + 1, as in "Transformers are RNNs" (arXiv 2006.16236)."""

from __future__ import annotations

import torch

from hyla.layers.carry import Carry, recur, remembered
from hyla.layers.layer import Layer
from hyla.layers.linear import Projection
from hyla.layers.narrow_states import StateDtype
from hyla.layers.protocol import CacheSpec, Inside, LayerCache, TensorSpec
from hyla.layers.tables.linear import parameters
from hyla.ops.batch import Batch
from hyla.ops.exact.primitives import wide
from hyla.ops.linear import cache_tensors, elu_plus_one, linear_attention


class LinearAttention(Layer):
    """o(S^T phi(q x) / (z . phi(q x) + eps)): a sum of outer products without decay, normalised; fp32 inside."""

    operators = ("linear",)
    in_projection: Projection
    out_projection: Projection

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        eps: float,
        state_dtype: StateDtype = "float32",
    ):
        """The fields of `models.config.LinearAttentionConfig`."""
        super().__init__(parameters(hidden_dim, num_heads=num_heads, key_dim=key_dim, value_dim=value_dim))
        self.state_dtype: StateDtype = state_dtype
        self.num_heads, self.key_dim, self.value_dim, self.eps = num_heads, key_dim, value_dim, eps

    def cache_spec(self) -> CacheSpec:
        tensors = cache_tensors(num_heads=self.num_heads, key_dim=self.key_dim, value_dim=self.value_dim)
        return CacheSpec(slot_tensors=tuple(TensorSpec(*fields) for fields in tensors))

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        options = {"eps": self.eps, "state_dtype": self.state_dtype}
        o_THV = recur(linear_attention, *self._operands(x_TD), batch=batch, cache=cache, **options)
        return self.out_projection(o_THV.flatten(1).to(x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        options = {"eps": self.eps, "state_dtype": self.state_dtype}
        found = remembered(linear_attention, *self._operands(x_TD), batch=batch, **options)
        return Inside(state_NHKV=found[..., : self.value_dim])  # the rest is what the sum is divided by

    def _operands(self, x_TD: torch.Tensor):
        """phi(q), phi(k) and v."""
        q, k, v = (wide(x).unflatten(-1, (self.num_heads, -1)) for x in self.in_projection(x_TD))
        return elu_plus_one(q), elu_plus_one(k), v
