"""One forward call, and what an operator does in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hyla.cost.inventory import element_bytes

Arithmetic = Literal["hyla", "usual"]
ARITHMETICS: tuple[Arithmetic, ...] = ("hyla", "usual")


@dataclass(frozen=True)
class Step:
    """One forward call: `num_sequences` sequences with `length` new tokens each, after `start` earlier ones."""

    num_sequences: int
    start: int
    length: int

    @property
    def num_rows(self) -> int:
        return self.num_sequences * self.length

    @property
    def context_tokens(self) -> int:
        """Of each sequence, the new tokens included."""
        return self.start + self.length

    @property
    def is_decode(self) -> bool:
        return self.length == 1


def prefill(context_tokens: int, num_sequences: int = 1) -> Step:
    """Whole prompts in one call."""
    return Step(num_sequences, 0, context_tokens)


def decode(context_tokens: int, num_sequences: int = 1) -> Step:
    """One token each, which is the context's last one."""
    return Step(num_sequences, context_tokens - 1, 1)


@dataclass(frozen=True)
class Work:
    """What one operator does in a call, over all sublayers of one config."""

    operator: str
    """What limits it: "projection", "experts", "head", "embedding", "elementwise", or the mixer's operator."""
    kind: str
    """Kind of the sublayer that it stands in; "embedding" or "head" outside the stack."""
    flops: float = 0.0
    weight_bytes: float = 0.0
    cache_bytes: float = 0.0
    """Read and written."""
    activation_bytes: float = 0.0
    is_fp32: bool = False
    """Multiplied in fp32 whatever the weights' dtype."""
    calls: float = 1.0
    """Separate runs of the operator: each has the device's overhead."""
    is_decode: bool = False
    """One new row per sequence."""

    @property
    def nbytes(self) -> float:
        return self.weight_bytes + self.cache_bytes + self.activation_bytes

    def times(self, count: int) -> Work:
        """The same in `count` sublayers."""
        return replace(
            self,
            flops=count * self.flops,
            weight_bytes=count * self.weight_bytes,
            cache_bytes=count * self.cache_bytes,
            activation_bytes=count * self.activation_bytes,
            calls=count * self.calls,
        )


@dataclass(frozen=True)
class Setting:
    """How a call is run."""

    step: Step
    weights: str
    """The weights' dtype."""
    arithmetic: Arithmetic

    @property
    def size(self) -> int:
        """Bytes of an activation or of a cached element."""
        return element_bytes(self.weights)

    @property
    def is_ours(self) -> bool:
        return self.arithmetic == "hyla"
