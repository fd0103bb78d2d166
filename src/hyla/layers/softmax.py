"""Grouped-query softmax attention, with QK-norm, partial RoPE, output gate, window and sinks where a model has them."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from hyla.grid import CHUNK
from hyla.layers.carry import Carry, alone
from hyla.layers.layer import Layer
from hyla.layers.linear import Linear, Projection
from hyla.layers.norms import RMSNorm, activated_gate
from hyla.layers.protocol import CacheSpec, Inside, LayerCache, Scores, TensorSpec
from hyla.layers.rope import norm_and_rotate, rotary_table
from hyla.layers.rope_scaling import Scaling
from hyla.layers.tables.softmax import parameters
from hyla.ops.attention import PagedKV, attention
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives


class SoftmaxAttention(Layer):
    """o(sigmoid(gate x) * attention(rope(norm(q x)), rope(norm(k x)), v x)), scale head_dim^-0.5.

    Norms, rotation and attention in fp32; keys and values are rounded to the model's dtype once, before they are read
    or cached. Source: Qwen3 (QK-norm, arXiv 2505.09388), Qwen3-Next (output gate, as in arXiv 2505.06708),
    MiMo-V2-Flash (window, sinks, scaled values), MiniMax-M2 (QK-norm over the projection).
    """

    operators = ("attention", "rotary")
    optional = ("gate", "sinks", "q_norm", "k_norm")
    registered_first = ("q", "gate")
    k: Linear
    gate: Linear | None
    sinks: torch.Tensor | None
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    gate_activation: Literal["sigmoid", "silu"]
    in_projection: Projection
    out_projection: Projection

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        has_output_gate: bool,
        qk_norm_eps: float | None,
        qk_norm_zero_centered: bool,
        rotary_dim: int,
        rope_theta: float,
        rope_interleaved: bool = False,
        rope_scaling: Scaling | None = None,
        qk_norm_scope: Literal["head", "projection"] = "head",
        window: int | None = None,
        has_sinks: bool = False,
        value_dim: int | None = None,
        value_scale: float = 1.0,
        qkv_bias: bool = False,
        out_bias: bool = False,
        gate_activation: Literal["sigmoid", "silu"] = "sigmoid",
    ):
        """qk_norm_eps: None for no QK-norm; qk_norm_scope: what is normed as one vector; rotary_dim: rotated channels
        of a head, 0 for no position code; window: keys that a row sees, its own included, None for all; has_sinks: a
        logit per head in the denominator; value_dim: None for head_dim; value_scale: of the values, before the cache.
        qkv_bias, out_bias: which projections add one. gate_activation: of the output gate.
        """
        table = parameters(
            hidden_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            has_output_gate=has_output_gate,
            qk_norm_scope=None if qk_norm_eps is None else qk_norm_scope,
            has_sinks=has_sinks,
            qkv_bias=qkv_bias,
            out_bias=out_bias,
        )
        norms = {}
        if qk_norm_eps is not None:
            qk_norm = partial(RMSNorm, eps=qk_norm_eps, zero_centered=qk_norm_zero_centered)
            norms = {"q_norm": qk_norm, "k_norm": qk_norm}
        super().__init__(table, norms)
        self.value_dim, self.value_scale, self.window = value_dim or head_dim, value_scale, window
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.is_projection_normed = qk_norm_scope == "projection"
        self.rotary = rotary_table(rotary_dim, rope_theta, rope_scaling) if rotary_dim else None
        self.rope_interleaved, self.gate_activation = rope_interleaved, gate_activation

    def cache_spec(self) -> CacheSpec:
        dtype, heads, dim = self.k.weight.dtype, self.num_kv_heads, self.head_dim
        k_pages = TensorSpec("k", (heads, dim, CHUNK), dtype, "kv")
        v_pages = TensorSpec("v", (heads, CHUNK, self.value_dim), dtype, "kv")
        return CacheSpec(page_tensors=(k_pages, v_pages), window=self.window)

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        batch, cache = alone(batch, cache)
        q, k, v, *gate = self.in_projection(x_TD)
        q_THK, k_TGK = self._normed_and_rotated(q, k, batch)
        o_THV = attention(
            q_THK,
            k_TGK,
            self._scaled(v).unflatten(-1, (self.num_kv_heads, self.value_dim)),
            batch=batch,
            cache=None if cache is None else PagedKV(cache["k"], cache["v"]),
            scale=self.head_dim**-0.5,
            window=self.window,
            sinks_H=self._sinks(q_THK.dtype),
        )
        return self.out_projection(self._gated(o_THV.flatten(1), gate[0] if gate else None, x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        q, k, _, *gate = self.in_projection(x_TD)
        q_THK, k_TGK = self._normed_and_rotated(q, k, batch)
        scores = Scores(q_THK, k_TGK, self.head_dim**-0.5, self.window, self._sinks(q_THK.dtype))
        return Inside(gate=activated_gate(gate[0] if gate else None, self.gate_activation), scores=scores)

    def _gated(self, o_TC: torch.Tensor, gate_TC: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """The heads' outputs under the gate, if there is one, rounded once to dtype."""
        if gate_TC is None:
            return primitives.scaled(o_TC, 1.0, dtype)
        if self.gate_activation == "sigmoid":
            return primitives.sigmoid_gate(o_TC, gate_TC, dtype)
        return primitives.scaled(primitives.swiglu(primitives.scaled(gate_TC, 1.0, o_TC.dtype), o_TC), 1.0, dtype)

    def _sinks(self, dtype: torch.dtype) -> torch.Tensor | None:
        return None if self.sinks is None else self.sinks.to(dtype)

    def _scaled(self, v: torch.Tensor) -> torch.Tensor:
        return primitives.scaled(v, self.value_scale, v.dtype)

    def _normed_and_rotated(self, q, k, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Heads of queries [T, Hq, d] in fp32 and keys [T, G, d] in the dtype they are cached in."""
        dtype, q_norm, k_norm = k.dtype, self.q_norm, self.k_norm
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if self.is_projection_normed and q_norm is not None and k_norm is not None:
            q, k = (norm(primitives.scaled(x, 1.0, wide)) for norm, x in ((q_norm, q), (k_norm, k)))
            q_norm = k_norm = None
        cos_sin = None if self.rotary is None else self.rotary(batch, wide)
        q_THK, k_TGK = q.unflatten(-1, (self.num_heads, -1)), k.unflatten(-1, (self.num_kv_heads, -1))
        q_THK = norm_and_rotate(q_THK, q_norm, cos_sin, interleaved=self.rope_interleaved)
        return q_THK, norm_and_rotate(k_TGK, k_norm, cos_sin, interleaved=self.rope_interleaved, dtype=dtype)
