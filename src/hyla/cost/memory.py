"""What a model remembers: bytes per token and per sequence of each mixer, as published models count and as kept here.

Published: keys and values of the tokens that a layer sees, one fp32 state per head, the last K - 1 inputs of a short
convolution. Resident: what this engine's cache allocates: pages of 64 tokens, of layers with a window only those that a
decoding sequence still sees, and a slot per sequence with anchors, open rows, convolution rings and tails.
Proved equal to the real caches (tests/cost/test_cost_memory.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hyla.cost import formulas
from hyla.cost.parameters import distinct
from hyla.models.config import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    MLAConfig,
    ModelConfig,
    SoftmaxConfig,
    SparseMLAConfig,
    SublayerConfig,
)

PAGE_TOKENS = formulas.attention.PAGE


@dataclass(frozen=True)
class MixerMemory:
    """Bytes that one mixer keeps; zero for a channel mixer. Memories add up, but for `window_tokens`."""

    kv_bytes_per_token: int = 0
    """Of a layer that sees the whole context."""
    window_kv_bytes_per_token: int = 0
    """Of a layer that sees `window_tokens`."""
    window_tokens: int = 0
    state_bytes: int = 0
    """Per sequence, published: fp32 states."""
    conv_bytes: int = 0
    """Per sequence, published: the last K - 1 inputs of the short convolutions, in the model's dtype."""
    slot_bytes: int = 0
    """Per sequence, resident here: anchors, open rows, rings and tails."""

    def published_bytes(self, context_tokens: int) -> int:
        """One sequence of that length, as published models count."""
        seen = min(context_tokens, self.window_tokens)
        states = self.state_bytes + self.conv_bytes
        return self.kv_bytes_per_token * context_tokens + self.window_kv_bytes_per_token * seen + states

    @property
    def page_bytes(self) -> int:
        """One page of 64 tokens here, of the layers that see the whole context."""
        return PAGE_TOKENS * self.kv_bytes_per_token

    @property
    def window_page_bytes(self) -> int:
        """One page of 64 tokens here, of the layers that see `window_tokens`."""
        return PAGE_TOKENS * self.window_kv_bytes_per_token

    def resident_bytes(self, context_tokens: int) -> int:
        """One sequence of that length in this engine's cache."""
        pages = -(-context_tokens // PAGE_TOKENS)
        seen = min(pages, formulas.attention.num_window_pages(self.window_tokens, 1)) if self.window_tokens else 0
        return pages * self.page_bytes + seen * self.window_page_bytes + self.slot_bytes


def _softmax(config: SoftmaxConfig, size: int) -> MixerMemory:
    dims = (config.num_kv_heads, config.head_dim, config.value_dim or config.head_dim)
    per_token = formulas.attention.cache_bytes_per_token(*dims, size)
    if config.window is None:
        return MixerMemory(kv_bytes_per_token=per_token)
    return MixerMemory(window_kv_bytes_per_token=per_token, window_tokens=config.window)


def _mla(config: MLAConfig, size: int) -> MixerMemory:
    key_dim = config.kv_lora_dim + config.rope_dim
    return MixerMemory(kv_bytes_per_token=formulas.attention.cache_bytes_per_token(1, key_dim, 0, size))


def _sparse_mla(config: SparseMLAConfig, size: int) -> MixerMemory:
    key_dim = config.kv_lora_dim + config.rope_dim
    return MixerMemory(kv_bytes_per_token=formulas.sparse.cache_bytes_per_token(config.index_dim, key_dim, size))


def _recurrent(state_bytes: int, open_bytes: int, channels: int = 0, taps: int = 1, size: int = 0) -> MixerMemory:
    ring, tail = formulas.short_conv.cache_bytes_per_sequence(channels, size), channels * (taps - 1) * size
    return MixerMemory(
        state_bytes=state_bytes,
        conv_bytes=tail,
        slot_bytes=state_bytes + open_bytes + ring + tail,
    )


def _gated_delta(config: GatedDeltaConfig, size: int) -> MixerMemory:
    dims = {"num_value_heads": config.num_value_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    opened = formulas.gated_delta.open_bytes(num_key_heads=config.num_key_heads, **dims)
    channels = 2 * config.num_key_heads * config.key_dim + config.num_value_heads * config.value_dim
    return _recurrent(formulas.gated_delta.state_bytes(**dims), opened, channels, config.conv_len, size)


def _kda(config: KDAConfig, size: int) -> MixerMemory:
    dims = {"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    channels = config.num_heads * (2 * config.key_dim + config.value_dim)
    opened = formulas.kda.open_bytes(**dims)
    return _recurrent(formulas.kda.state_bytes(**dims), opened, channels, config.conv_len, size)


def _lightning(config: LightningConfig, size: int) -> MixerMemory:
    dims = {"num_heads": config.num_heads, "key_dim": config.head_dim, "value_dim": config.head_dim}
    return _recurrent(formulas.lightning.state_bytes(**dims), formulas.lightning.open_bytes(**dims))


def _mamba2(config: Mamba2Config, size: int) -> MixerMemory:
    dims = {"num_heads": config.num_heads, "key_dim": config.state_dim, "value_dim": config.head_dim}
    channels = config.num_heads * config.head_dim + 2 * config.num_groups * config.state_dim
    opened = formulas.ssd.open_bytes(num_groups=config.num_groups, **dims)
    return _recurrent(formulas.ssd.state_bytes(**dims), opened, channels, config.conv_len, size)


def _linear(config: LinearAttentionConfig, size: int) -> MixerMemory:
    dims = {"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    return _recurrent(formulas.linear.state_bytes(**dims), formulas.linear.open_bytes(**dims))


MEMORIES = {
    "softmax": _softmax,
    "mla": _mla,
    "sparse_mla": _sparse_mla,
    "gated_delta": _gated_delta,
    "kda": _kda,
    "lightning": _lightning,
    "mamba2": _mamba2,
    "linear": _linear,
}
"""By kind of mixer: (config, bytes of a cached element) -> memory."""


def mixer_memory(sublayer: SublayerConfig, bytes_per_element: int = 2) -> MixerMemory:
    """What one sublayer keeps. bytes_per_element: of cached keys, values and convolution inputs."""
    remember = MEMORIES.get(sublayer.module.kind)
    return MixerMemory() if remember is None else remember(sublayer.module, bytes_per_element)


@dataclass(frozen=True)
class StackMemory:
    """The mixers of a stack: each different one with its number."""

    parts: tuple[tuple[MixerMemory, int], ...]

    def __getattr__(self, name: str) -> int:
        """Sums of `MixerMemory`'s byte counts."""
        if name not in _SUMMED:
            raise AttributeError(name)
        return sum(getattr(memory, name) * count for memory, count in self.parts)

    def published_bytes(self, context_tokens: int) -> int:
        """One sequence of that length, as published models count."""
        return sum(memory.published_bytes(context_tokens) * count for memory, count in self.parts)

    def resident_bytes(self, context_tokens: int) -> int:
        """One sequence of that length in this engine's cache."""
        return sum(memory.resident_bytes(context_tokens) * count for memory, count in self.parts)


_SUMMED = {field.name for field in fields(MixerMemory)} - {"window_tokens"} | {"page_bytes", "window_page_bytes"}


def stack_memory(sublayers: tuple[SublayerConfig, ...], bytes_per_element: int = 2) -> StackMemory:
    """The memory of a stack."""
    found = ((mixer_memory(sub, bytes_per_element), count) for sub, count in distinct(sublayers).items())
    return StackMemory(tuple((memory, count) for memory, count in found if memory != MixerMemory()))


def model_memory(config: ModelConfig, bytes_per_element: int = 2) -> StackMemory:
    """The memory of a model's trunk (multi-token prediction apart)."""
    return stack_memory(config.sublayers, bytes_per_element)
