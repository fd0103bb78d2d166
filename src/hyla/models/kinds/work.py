"""What a mixer's operators work on: the numbers from which `hyla.cost` knows their FLOPs, bytes and memory.

Data without PyTorch. A kind of mixer turns its config into one of these; the formulas that read them
stand with the operators, `ops/<operator>/cost.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Recurrence:
    """An operator whose memory is a state of fixed size per sequence, computed in chunks."""

    dims: Mapping[str, int]
    """Sizes of the state, as keywords of the formulas: num_heads (or num_value_heads), key_dim, value_dim."""
    shared: Mapping[str, int] = field(default_factory=lambda: NOTHING)
    """What only the chunk formulas take beside them: heads that share keys (num_key_heads, num_groups)."""
    conv_channels: int = 0
    """Channels of the short convolution before it; 0: there is none."""
    conv_taps: int = 0
    """Taps of that convolution, the current row's included."""

    @property
    def num_heads(self) -> int:
        return self.dims.get("num_heads") or self.dims["num_value_heads"]


@dataclass(frozen=True)
class Indexer:
    """Which keys a token attends to: the `num_selected` best by scores of heads of their own (sparse attention)."""

    num_heads: int
    dim: int
    """Channels of an index query and of the one index key of a token."""
    num_selected: int


@dataclass(frozen=True)
class Latent:
    """Keys and values that come from one latent a token (MLA), where an engine expands it to compute a prompt."""

    key_dim: int
    """Channels of an expanded key."""
    value_dim: int
    expanded_dim: int
    """Channels of a head that are products of the latent: of its key without the rotated part, and of its value."""


@dataclass(frozen=True)
class Attention:
    """Softmax attention over cached keys and values."""

    num_heads: int
    num_kv_heads: int
    key_dim: int
    """Channels of a cached key."""
    value_dim: int
    """Channels of a value."""
    window: int | None = None
    """Keys that a row sees, its own included; None: all earlier ones."""
    latent: Latent | None = None
    """The cached keys are latents whose first channels are the values, so no value is cached."""
    indexer: Indexer | None = None

    @property
    def cached_value_dim(self) -> int:
        """Channels of a cached value."""
        return 0 if self.latent else self.value_dim

    @property
    def sees_everything(self) -> bool:
        """Whether memory and time of a token grow with the context without bound."""
        return self.window is None and self.indexer is None
