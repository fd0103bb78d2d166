"""The non-linearities of channel mixers by name. The table needs no PyTorch: configs and costs read it, too.

A new one is an entry here, a function of its name in `ops.exact.primitives`, and its gradient in `ops.moe.gradient`
(`ACTIVATION_GRADIENTS`), where experts write theirs out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Activation:
    """What stands between the products of a channel mixer."""

    has_gate: bool
    """Whether it takes two products, gate and up, instead of up alone."""


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        # down(silu(gate x) * up x)
        "swiglu": Activation(has_gate=True),
        # down(relu(up x)^2): Nemotron
        "relu2": Activation(has_gate=False),
    }
)


def activate(name: str, products: torch.Tensor) -> torch.Tensor:
    """The activation [.., I] of gate and up beside one another [.., 2 I], or of up alone [.., I].

    Differentiable; in the products' dtype.
    """
    from hyla.ops.exact import primitives

    return getattr(primitives, name)(products)
