"""The mixers as layers of anybody's own PyTorch model: `[B, T, D]` in and out, packed rows, and steps with a cache.

A mixer of this package speaks of packed rows, a `Batch` and the tensors of a pool. `StandaloneMixer` makes the batch,
keeps the cache and draws the first weights; the arithmetic is the mixer's own, so a token's output has the same bits
in a whole sequence, in pieces and one by one. docs/layers.md shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType

import torch
from torch import nn

from hyla.errors import RequestError
from hyla.grid import CHUNK
from hyla.layers import gated_delta, gla, kda, lightning, linear_attention, mamba2, mla, softmax, sparse_mla
from hyla.layers.protocol import CacheSpec, Mixer, TensorSpec
from hyla.ops.batch import Batch

INIT_STD = 0.02


class MixerCache:
    """What one mixer keeps of some sequences, each at its own length; grows by pages as they do.

    Made by `StandaloneMixer.new_cache`. A call with the cache appends rows; there is no way back but `reset`.
    """

    def __init__(self, spec: CacheSpec, num_sequences: int, device: torch.device):
        self.spec, self.device = spec, device
        self.lengths = [0] * num_sequences
        """Tokens held of each sequence."""
        self._pages: list[list[int]] = [[] for _ in self.lengths]
        self._num_pages = 1  # page 0 and slot 0 are null rows
        self.tensors: dict[str, torch.Tensor] = {
            **self._zeros(spec.slot_tensors, num_sequences + 1),
            **self._zeros(spec.page_tensors, num_sequences + 1),
        }

    def _zeros(self, tensors: tuple[TensorSpec, ...], count: int) -> dict[str, torch.Tensor]:
        # Never tensors of inference mode: those could not be extended outside of it.
        with torch.inference_mode(False):
            return {t.name: torch.zeros(count, *t.shape, dtype=t.dtype, device=self.device) for t in tensors}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def batch(self, lengths: Sequence[int]) -> Batch:
        """The forward call that appends lengths[n] rows to sequence n (0: it waits)."""
        if len(lengths) != len(self.lengths) or min(lengths) < 0 or sum(lengths) == 0:
            raise RequestError(f"lengths {tuple(lengths)} do not fit a cache of {len(self.lengths)} sequences")
        active = [n for n, length in enumerate(lengths) if length]
        if self.spec.page_tensors:
            for n in active:
                self._reserve(n, self.lengths[n] + lengths[n])
        return Batch(
            lengths=tuple(lengths[n] for n in active),
            starts=tuple(self.lengths[n] for n in active),
            slots=tuple(n + 1 for n in active),
            pages=tuple(tuple(self._pages[n]) for n in active),
            device=self.device,
        )

    def _reserve(self, sequence: int, length: int) -> None:
        """Give a sequence the pages for `length` tokens; the tensors double when they are full."""
        pages = self._pages[sequence]
        needed = -(-length // CHUNK) - len(pages)
        pages.extend(range(self._num_pages, self._num_pages + needed))
        self._num_pages += max(needed, 0)
        for spec in self.spec.page_tensors:
            old = self.tensors[spec.name]
            if old.shape[0] < self._num_pages:
                larger = self._zeros((spec,), max(self._num_pages, 2 * old.shape[0]))[spec.name]
                larger[: old.shape[0]] = old
                self.tensors[spec.name] = larger

    def advance(self, lengths: Sequence[int]) -> None:
        """Count the rows that a call has appended."""
        self.lengths = [held + new for held, new in zip(self.lengths, lengths)]

    def reset(self) -> None:
        """Forget every sequence; the memory is kept."""
        self.lengths = [0] * len(self.lengths)
        self._pages, self._num_pages = [[] for _ in self.lengths], 1
        for tensor in self.tensors.values():
            tensor.zero_()


class StandaloneMixer(nn.Module):
    """A mixer with a PyTorch layer's manners. Subclasses name the mixer; any keyword of its constructor may be given.

    Weights are drawn when the layer is made: Normal(0, init_std) projections, norms of scale one, decays and
    convolutions as their papers start them. They follow torch.manual_seed. What a mixer names in `fp32_parameters`
    stays fp32 through `.to(torch.bfloat16)`.
    """

    mixer_type: Callable[..., Mixer]
    defaults: Mapping = MappingProxyType({})
    """Keywords that need not be given."""

    def __init__(self, hidden_dim: int, *, init_std: float = INIT_STD, **options):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.mixer: Mixer = type(self).mixer_type(hidden_dim, **{**self.defaults, **options})
        self.reset_parameters(init_std)

    @torch.no_grad()
    def reset_parameters(self, init_std: float = INIT_STD) -> None:
        """Draw all weights anew (nothing on the meta device)."""
        device = next(self.parameters()).device
        if device.type == "meta":
            return
        seed = int(torch.randint(2**62, (), device="cpu"))
        self.mixer.initialize(init_std, torch.Generator(device=device).manual_seed(seed))

    def _apply(self, fn, recurse: bool = True):
        names = self.mixer.fp32_parameters
        held = {name: getattr(self.mixer, name) for name in names}
        before = {name: parameter.detach() for name, parameter in held.items() if parameter is not None}
        super()._apply(fn, recurse)
        for name, wide in before.items():
            parameter = getattr(self.mixer, name)
            if parameter.dtype.itemsize < wide.dtype.itemsize == 4:
                parameter.data = wide.to(parameter.device)
        return self

    def new_cache(self, num_sequences: int = 1) -> MixerCache:
        """An empty cache for calls that continue `num_sequences` sequences, in the layer's dtype, on its device."""
        return MixerCache(self.mixer.cache_spec(), num_sequences, next(self.parameters()).device)

    def forward(
        self, x: torch.Tensor, lengths: Sequence[int] | torch.Tensor | None = None, cache: MixerCache | None = None
    ) -> torch.Tensor:
        """Causal mixing along each sequence; returns x's shape.

        x: [B, T, D], B sequences of T tokens; or packed [T, D] with `lengths`, the tokens of each sequence (one
        sequence if left out). In the weights' dtype.
        cache: the rows continue its sequences, in order, and are kept there; computed without gradients. With packed
        rows a length may be 0: that sequence waits.
        Raises RequestError for shapes that do not fit.
        """
        lengths = self._lengths(x, lengths)
        x_TD = x.reshape(-1, self.hidden_dim)
        with nullcontext() if cache is None else torch.no_grad():
            if cache is None:
                return self.mixer(x_TD, Batch.packed(lengths, x.device), None).view(x.shape)
            out_TD = self.mixer(x_TD, cache.batch(lengths), cache.tensors)
        cache.advance(lengths)
        return out_TD.view(x.shape)

    def _lengths(self, x: torch.Tensor, lengths) -> list[int]:
        """Rows of each sequence."""
        if x.dim() not in (2, 3) or x.shape[-1] != self.hidden_dim:
            raise RequestError(f"x is {tuple(x.shape)}; it must be [B, T, {self.hidden_dim}] or [T, {self.hidden_dim}]")
        if x.dim() == 3:
            if lengths is not None:
                raise RequestError("lengths go with packed rows [T, D]; a [B, T, D] tensor has B sequences of T tokens")
            return [x.shape[1]] * x.shape[0]
        lengths = [x.shape[0]] if lengths is None else [int(length) for length in lengths]
        if sum(lengths) != x.shape[0]:
            raise RequestError(f"lengths {lengths} make {sum(lengths)} rows, but x has {x.shape[0]}")
        return lengths


class SoftmaxAttention(StandaloneMixer):
    """`hyla.layers.softmax.SoftmaxAttention` alone: num_heads, num_kv_heads, head_dim; all else may be left out."""

    mixer_type = softmax.SoftmaxAttention
    defaults = MappingProxyType(
        {
            "has_output_gate": False,
            "qk_norm_eps": None,
            "qk_norm_zero_centered": False,
            "rotary_dim": 0,
            "rope_theta": 10000.0,
        }
    )


class MLA(StandaloneMixer):
    """`hyla.layers.mla.MLA` alone: num_heads, kv_lora_dim, nope_dim, rope_dim, value_dim; all else may be left out."""

    mixer_type = mla.MLA
    defaults = MappingProxyType({"q_lora_dim": None, "norm_eps": 1e-6, "rotary_dim": 0, "rope_theta": 10000.0})


class GatedDelta(StandaloneMixer):
    """`hyla.layers.gated_delta.GatedDelta` alone: num_key_heads, num_value_heads, key_dim, value_dim."""

    mixer_type = gated_delta.GatedDelta
    defaults = MappingProxyType({"conv_len": 4, "norm_eps": 1e-6})


class KDA(StandaloneMixer):
    """`hyla.layers.kda.KDA` alone: num_heads, key_dim, value_dim; gate_rank for low-rank gates."""

    mixer_type = kda.KDA
    defaults = MappingProxyType({"conv_len": 4, "gate_rank": None, "norm_eps": 1e-5})


class GLA(StandaloneMixer):
    """`hyla.layers.gla.GLA` alone: num_heads, key_dim, value_dim; key_dim is half of value_dim in the paper."""

    mixer_type = gla.GLA
    defaults = MappingProxyType({"gate_rank": 16, "decay_divisor": 16.0, "norm_eps": 1e-5})


class LinearAttention(StandaloneMixer):
    """`hyla.layers.linear_attention.LinearAttention` alone: num_heads, key_dim, value_dim."""

    mixer_type = linear_attention.LinearAttention
    defaults = MappingProxyType({"eps": 1e-6})


class SparseMLA(StandaloneMixer):
    """`hyla.layers.sparse_mla.SparseMLA` alone: as `MLA` with q_lora_dim, num_index_heads, index_dim, num_selected."""

    mixer_type = sparse_mla.SparseMLA
    defaults = MappingProxyType({"norm_eps": 1e-6, "rotary_dim": 0, "rope_theta": 10000.0})


class Lightning(StandaloneMixer):
    """`hyla.layers.lightning.Lightning` alone: num_heads, head_dim, scale, and slopes, one positive number a head
    (`hyla.layers.slopes` has the published formulas)."""

    mixer_type = lightning.Lightning
    defaults = MappingProxyType(
        {
            "has_silu": False,
            "qk_norm_eps": None,
            "rotary_dim": 0,
            "rope_theta": 10000.0,
            "rope_interleaved": False,
            "norm_groups": 1,
            "norm_eps": 1e-6,
        }
    )


class Mamba2(StandaloneMixer):
    """`hyla.layers.mamba2.Mamba2` alone: num_heads, head_dim, num_groups, state_dim."""

    mixer_type = mamba2.Mamba2
    defaults = MappingProxyType({"conv_len": 4, "norm_eps": 1e-5, "time_step_limit": (0.0, float("inf"))})
