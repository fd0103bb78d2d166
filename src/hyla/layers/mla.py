"""Multi-head latent attention (MLA), in the absorbed form for training, prefill and decode alike.

Where `numerics` is "fast", long stretches of prompts are computed in the expanded form (`ops.latent.expanded`).
"""

from __future__ import annotations

from functools import partial

import torch

from hyla.grid import CHUNK
from hyla.layers.carry import Carry, alone
from hyla.layers.layer import Layer
from hyla.layers.linear import Linear, Projection
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, Inside, LayerCache, Scores, TensorSpec
from hyla.layers.rope import rotary_table
from hyla.layers.rope_scaling import Scaling
from hyla.layers.tables.mla import parameters
from hyla.ops import numerics
from hyla.ops.attention import PagedKV, attention
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.latent import absorb, expanded, head_outputs


class MLA(Layer):
    """Keys are [norm(latent) | shared part], values the latent; heads meet them through k_up and v_up.

    With c = norm(kv_a x)[:kv_lora] and k_pe = (kv_a x)[kv_lora:]:  q~_h = q_nope_h k_up_h,
    o_h = v_up_h softmax((q~_h . c + q_pe_h . k_pe) scale) c, scale = (nope + rope)^-0.5 scale_factor. The cache holds c
    and k_pe in the model's dtype: the absorbed products and attention run in fp32. Source: DeepSeek-V2, arXiv
    2405.04434, section 2.1; the head gate: Ling-3.0.
    """

    operators: tuple[str, ...] = ("attention", "latent")
    may_expand = True
    """Whether every row meets all keys before it, so that keys and values may be written out for many at once."""
    optional = ("q", "q_a", "q_b", "q_a_norm", "gate", "q_projection")
    registered_first = ("kv_a", "kv_norm", "o", "gate")
    kv_a: Linear
    kv_norm: RMSNorm
    q_a_norm: RMSNorm
    in_projection: Projection
    q_projection: Projection | None
    k_up_projection: Projection
    v_up_projection: Projection
    out_projection: Projection

    def __init__(
        self,
        hidden_dim: int,
        *,
        num_heads: int,
        q_lora_dim: int | None,
        kv_lora_dim: int,
        nope_dim: int,
        rope_dim: int,
        value_dim: int,
        norm_eps: float,
        rotary_dim: int,
        rope_theta: float,
        rope_interleaved: bool = False,
        rope_scaling: Scaling | None = None,
        scale_factor: float = 1.0,
        head_gate: bool = False,
    ):
        """q_lora_dim: None for a full query projection; rotary_dim: rotated channels of the shared part, 0 for none;
        scale_factor: on the scores, beside (nope_dim + rope_dim)^-0.5; head_gate: multiply each head's output by
        sigmoid(gate x)."""
        table = parameters(
            hidden_dim,
            num_heads=num_heads,
            q_lora_dim=q_lora_dim,
            kv_lora_dim=kv_lora_dim,
            nope_dim=nope_dim,
            rope_dim=rope_dim,
            value_dim=value_dim,
            head_gate=head_gate,
        )
        norm = partial(RMSNorm, eps=norm_eps)
        super().__init__(table, norms={"kv_norm": norm, "q_a_norm": norm})
        self.scale = (nope_dim + rope_dim) ** -0.5 * scale_factor
        self.num_heads, self.kv_lora_dim = num_heads, kv_lora_dim
        self.nope_dim, self.rope_dim, self.value_dim = nope_dim, rope_dim, value_dim
        self.rotary = rotary_table(rotary_dim, rope_theta, rope_scaling) if rotary_dim else None
        self.rope_interleaved = rope_interleaved

    def cache_spec(self) -> CacheSpec:
        shape = (1, self.kv_lora_dim + self.rope_dim, CHUNK)
        return CacheSpec(page_tensors=(TensorSpec("k", shape, self.kv_a.weight.dtype, "kv"),))

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | Carry | None) -> torch.Tensor:
        batch, cache = alone(batch, cache)
        long = self._long_sequences(batch) if cache is not None and numerics.is_fast() else ()
        if cache is not None and long:
            return self._forward_expanded(x_TD, batch, cache, long)
        q_THK, k_T1K, q_latent, gate = self._operands(x_TD, batch)
        o_THK = self.attend(q_THK, k_T1K, x_TD, q_latent, batch, cache)
        o = head_outputs(o_THK, self.v_up_projection.weights, gate[0] if gate else None, x_TD.dtype)
        return self.out_projection(o)[0]

    def _long_sequences(self, batch: Batch) -> tuple[int, ...]:
        """Those of the call that the expanded form is for."""
        if not self.may_expand:
            return ()
        dims = {"latent_dim": self.kv_lora_dim, "nope_dim": self.nope_dim, "rope_dim": self.rope_dim}
        return expanded.long_sequences(batch, **dims, value_dim=self.value_dim)

    def _forward_expanded(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache, long: tuple[int, ...]):
        """`forward` with some sequences in the expanded form, and the others, if there are any, as ever."""
        if len(long) < batch.num_sequences:
            out_TD = torch.empty_like(x_TD)
            short = tuple(n for n in range(batch.num_sequences) if n not in long)
            for sequences in (long, short):
                rows_T, part = batch.part(sequences)
                out_TD[rows_T] = self(x_TD[rows_T], part, cache)
            return out_TD
        q_THK, k_T1K, _, gate = self._operands(x_TD, batch, absorbs=False)
        o_THV = expanded.expanded_attention(
            q_THK,
            k_T1K,
            self.k_up_projection.weights,
            self.v_up_projection.weights,
            batch=batch,
            k_pages=cache["k"],
            scale=self.scale,
        )
        return self.out_projection(head_outputs(o_THV, None, gate[0] if gate else None, x_TD.dtype))[0]

    def inside(self, x_TD: torch.Tensor, batch: Batch) -> Inside:
        q_THK, k_T1K, q_latent, gate = self._operands(x_TD, batch)
        scores = Scores(q_THK, k_T1K, self.scale, positions_TS=self.selected(x_TD, q_latent, batch))
        return Inside(gate=primitives.sigmoid(primitives.wide(gate[0])) if gate else None, scores=scores)

    def selected(self, x_TD, q_latent_TR, batch: Batch) -> torch.Tensor | None:
        """The only positions that each row of whole sequences sees (`Scores.positions_TS`); None: all before it."""
        return None

    def _operands(self, x_TD: torch.Tensor, batch: Batch, *, absorbs: bool = True):
        """Queries, absorbed or not, keys, the normed query latent or None, and the gate in a list, or an empty one."""
        q, kv, *gate = self.in_projection(x_TD)
        q_latent = None
        if self.q_projection is not None:
            q_latent = self.q_a_norm(q)
            q = self.q_projection(q_latent)[0]
        k_up = self.k_up_projection.weights
        q_THK, k_T1K = absorb(
            q.unflatten(-1, (self.num_heads, -1)),
            kv,
            self.kv_norm.weight,
            None if self.rotary is None else self.rotary(batch, k_up.dtype),
            k_up if absorbs else None,
            eps=self.kv_norm.eps,
            interleaved=self.rope_interleaved,
        )
        return q_THK, k_T1K, q_latent, gate

    def attend(self, q_THK, k_T1K, x_TD, q_latent_TR, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        """Absorbed queries over the new and the cached latents: [T, H, kv_lora_dim]. x and q_latent (the normed
        query latent, or None): what the queries and keys were made from."""
        return attention(
            q_THK,
            k_T1K,
            None,
            batch=batch,
            cache=None if cache is None else PagedKV(cache["k"], None),
            scale=self.scale,
            value_dim=self.kv_lora_dim,
        )
