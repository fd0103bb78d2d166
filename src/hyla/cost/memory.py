"""What a model remembers: bytes per token and per sequence of each mixer, as published models count and as kept here.

Published: keys and values of the tokens that a layer sees, one fp32 state per head, the last K - 1 inputs of a short
convolution. Resident: what this engine's cache allocates: pages of 64 tokens, of layers with a window only those that a
decoding sequence still sees, and a slot per sequence with anchors, open rows, convolution rings and tails.
Proved equal to the real caches (tests/cost/test_cost_memory.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hyla.cost.formulas import attention, formulas_of, short_conv, sparse
from hyla.cost.parameters import distinct
from hyla.models.config import ModelConfig, SublayerConfig
from hyla.models.kinds import Attention, Recurrence, kind_of

PAGE_TOKENS = attention.PAGE


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
        seen = min(pages, attention.num_window_pages(self.window_tokens, 1)) if self.window_tokens else 0
        return pages * self.page_bytes + seen * self.window_page_bytes + self.slot_bytes


def _attention(found: Attention, size: int) -> MixerMemory:
    dims = (found.num_kv_heads, found.key_dim, found.cached_value_dim)
    per_token = attention.cache_bytes_per_token(*dims, size)
    if found.indexer:
        per_token = sparse.cache_bytes_per_token(found.indexer.dim, found.key_dim, size)
    if found.window is None:
        return MixerMemory(kv_bytes_per_token=per_token)
    return MixerMemory(window_kv_bytes_per_token=per_token, window_tokens=found.window)


def _recurrence(operator: str, found: Recurrence, size: int) -> MixerMemory:
    cost = formulas_of(operator)
    state, opened = cost.state_bytes(**found.dims), cost.open_bytes(**found.dims, **found.shared)
    ring = short_conv.cache_bytes_per_sequence(found.conv_channels, size)
    tail = found.conv_channels * (found.conv_taps - 1) * size
    return MixerMemory(state_bytes=state, conv_bytes=tail, slot_bytes=state + opened + ring + tail)


def mixer_memory(sublayer: SublayerConfig, bytes_per_element: int = 2) -> MixerMemory:
    """What one sublayer keeps. bytes_per_element: of cached keys, values and convolution inputs."""
    kind = kind_of(sublayer.module)
    if kind.work is None:
        return MixerMemory()
    found = kind.work(sublayer.module)
    if isinstance(found, Recurrence):
        return _recurrence(kind.operator, found, bytes_per_element)
    return _attention(found, bytes_per_element)


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
