"""Multi-head latent attention (MLA), in the absorbed form for training, prefill and decode alike."""

from __future__ import annotations

import torch
from torch import nn

from hyla.grid import CHUNK
from hyla.layers.linear import Linear, Projection
from hyla.layers.norms import RMSNorm
from hyla.layers.protocol import CacheSpec, LayerCache, TensorSpec
from hyla.layers.rope import rotary_table
from hyla.layers.rope_scaling import Scaling
from hyla.ops.attention import PagedKV, attention
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives
from hyla.ops.exact.batched import bmm
from hyla.ops.exact.primitives import wide
from hyla.ops.rotary import rotate


class HeadProjection:
    """One matrix per head, [H, in, out] or (is_transposed) [H, out, in], over each head's own rows, in fp32.

    `pack` keeps the matrices in fp32 (bf16 weights are not widened again at every call), for inference.
    """

    def __init__(self, module: nn.Module, name: str, *, is_transposed: bool):
        self._module, self._name, self.is_transposed = module, name, is_transposed
        self._packed: torch.Tensor | None = None
        self._stored_dtype: torch.dtype | None = None

    @property
    def is_packed(self) -> bool:
        return self._packed is not None

    def parameters(self) -> list[nn.Parameter]:
        """The parameter, in a list as every projection's; on the meta device when packed."""
        return [getattr(self._module, self._name)]

    def __call__(self, x_THI: torch.Tensor) -> torch.Tensor:
        """fp32 rows [T, H, in] -> [T, H, out]."""
        weight = wide(self.parameters()[0]) if self._packed is None else self._packed
        weight = weight.transpose(1, 2) if self.is_transposed else weight
        return bmm(x_THI.transpose(0, 1), weight).transpose(0, 1)

    def pack(self, keep_plain: bool = False) -> None:
        """Keep the matrices in fp32 and leave only a shape behind (inference only)."""
        if self.is_packed:
            return
        parameter = self.parameters()[0]
        self._packed, self._stored_dtype = wide(parameter.detach()), parameter.dtype
        if not keep_plain:
            setattr(self._module, self._name, nn.Parameter(parameter.detach().to("meta"), requires_grad=False))

    def plain_weights(self) -> list[torch.Tensor]:
        """The matrices in their stored dtype, without unpacking."""
        return [self.parameters()[0].detach() if self._packed is None else self._packed.to(self._stored_dtype)]

    def unpack(self) -> None:
        """Undo `pack`: a plain, trainable parameter again."""
        if not self.is_packed:
            return
        if self.parameters()[0].is_meta:
            setattr(self._module, self._name, nn.Parameter(self.plain_weights()[0].clone()))
        self._packed = None


class MLA(nn.Module):
    """Keys are [norm(latent) | shared part], values the latent; heads meet them through k_up and v_up.

    With c = norm(kv_a x)[:kv_lora] and k_pe = (kv_a x)[kv_lora:]:  q~_h = q_nope_h k_up_h,
    o_h = v_up_h softmax((q~_h . c + q_pe_h . k_pe) scale) c, scale = (nope + rope)^-0.5 scale_factor. The cache holds c
    and k_pe in the model's dtype: the absorbed products and attention run in fp32. Source: DeepSeek-V2, arXiv
    2405.04434, section 2.1; the head gate: Ling-3.0.
    """

    fp32_parameters: tuple[str, ...] = ()
    operators: tuple[str, ...] = ("attention",)

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
        super().__init__()
        self.scale = (nope_dim + rope_dim) ** -0.5 * scale_factor
        self.num_heads, self.kv_lora_dim = num_heads, kv_lora_dim
        self.nope_dim, self.rope_dim = nope_dim, rope_dim
        query_dim = num_heads * (nope_dim + rope_dim)
        self.kv_a = Linear(hidden_dim, kv_lora_dim + rope_dim)
        self.kv_norm = RMSNorm(kv_lora_dim, eps=norm_eps)
        self.k_up = nn.Parameter(torch.empty(num_heads, nope_dim, kv_lora_dim))
        self.v_up = nn.Parameter(torch.empty(num_heads, value_dim, kv_lora_dim))
        self.o = Linear(num_heads * value_dim, hidden_dim)
        self.gate = Linear(hidden_dim, num_heads) if head_gate else None
        gates = [self.gate] if head_gate else []
        self.q = self.q_a = self.q_a_norm = self.q_b = self.q_projection = None
        if q_lora_dim is None:
            self.q = Linear(hidden_dim, query_dim)
            self.in_projection = Projection(self.q, self.kv_a, *gates)
        else:
            self.q_a, self.q_b = Linear(hidden_dim, q_lora_dim), Linear(q_lora_dim, query_dim)
            self.q_a_norm = RMSNorm(q_lora_dim, eps=norm_eps)
            self.in_projection, self.q_projection = Projection(self.q_a, self.kv_a, *gates), Projection(self.q_b)
        self.k_up_projection = HeadProjection(self, "k_up", is_transposed=False)
        self.v_up_projection = HeadProjection(self, "v_up", is_transposed=True)
        self.out_projection = Projection(self.o)
        self.rotary = rotary_table(rotary_dim, rope_theta, rope_scaling) if rotary_dim else None
        self.rope_interleaved = rope_interleaved
        used = (self.in_projection, self.q_projection, self.k_up_projection, self.v_up_projection, self.out_projection)
        self.projections = tuple(projection for projection in used if projection is not None)

    def cache_spec(self) -> CacheSpec:
        shape = (1, self.kv_lora_dim + self.rope_dim, CHUNK)
        return CacheSpec(page_tensors=(TensorSpec("k", shape, self.kv_a.weight.dtype, "kv"),))

    def forward(self, x_TD: torch.Tensor, batch: Batch, cache: LayerCache | None) -> torch.Tensor:
        q, kv, *gate = self.in_projection(x_TD)
        q_latent = None
        if self.q_projection is not None:
            q_latent = self.q_a_norm(q)
            q = self.q_projection(q_latent)[0]
        q_nope, q_pe = wide(q).unflatten(-1, (self.num_heads, -1)).split([self.nope_dim, self.rope_dim], dim=-1)
        latent, k_pe = wide(kv).unflatten(-1, (1, -1)).split([self.kv_lora_dim, self.rope_dim], dim=-1)
        if self.rotary is not None:
            cos_sin = self.rotary(batch, q_pe.dtype)
            both = rotate(torch.cat([q_pe, k_pe], dim=1), cos_sin, interleaved=self.rope_interleaved)
            q_pe, k_pe = both.split([self.num_heads, 1], dim=1)
        q_THK = torch.cat([self.k_up_projection(q_nope), q_pe], dim=-1)
        k_T1K = torch.cat([self.kv_norm(latent), k_pe], dim=-1).to(x_TD.dtype)
        o_THK = self.attend(q_THK, k_T1K, x_TD, q_latent, batch, cache)
        o_THV = self.v_up_projection(o_THK)
        if gate:
            o_THV = o_THV * primitives.sigmoid(wide(gate[0]))[..., None]
        return self.out_projection(o_THV.flatten(1).to(x_TD.dtype))[0]

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

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Normal(0, std) projections."""
        linears = (self.q, self.q_a, self.q_b, self.kv_a, self.gate, self.o)
        linears = [linear for linear in linears if linear is not None]
        for weight in (*(linear.weight for linear in linears), self.k_up, self.v_up):
            nn.init.normal_(weight, std=std, generator=generator)
