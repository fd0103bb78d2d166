"""Sizes of models, and the mixers of a size."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hyla.errors import ConfigError
from hyla.models.config import Config, Count

WINDOW = 128
"""Keys of a window layer (MiMo-V2, arXiv 2601.02780)."""


class Size(Config):
    """Width and depth of a model, the same for all arms."""

    hidden_dim: Count
    """Width of the residual stream."""
    num_layers: Count
    """Layers, each a mixer and a channel mixer."""
    num_heads: Count
    """Heads of every mixer (Mamba-2: twice as many)."""
    head_dim: Annotated[int, Field(ge=2, multiple_of=2)]
    """Channels of a head: of keys, of values, of a state."""
    mlp_dim: Count
    """Width inside the SwiGLU: about 8/3 of `hidden_dim` (arXiv 2002.05202)."""


def _row(hidden_dim: int, num_layers: int, head_dim: int) -> Size:
    mlp_dim = -(-8 * hidden_dim // 3 // 16) * 16
    heads = hidden_dim // head_dim
    return Size(hidden_dim=hidden_dim, num_layers=num_layers, num_heads=heads, head_dim=head_dim, mlp_dim=mlp_dim)


LADDER = {
    f"w{width}": _row(width, layers, head_dim)
    for width, layers, head_dim in (
        (32, 8, 16),
        (48, 8, 16),
        (64, 8, 32),
        (96, 8, 32),
        (128, 8, 32),
        (192, 8, 32),
        (256, 8, 32),
        (384, 8, 64),
        (512, 8, 64),
        (640, 16, 64),
        (896, 16, 64),
        (1024, 16, 64),
    )
}
"""By width. From w512 on, width, depth and heads are rows of Chinchilla's ladder (arXiv 2203.15556, table A9) whose
depth is a multiple of 8, so that groups of 2, 4 and 8 layers fit. Below it there are no published rows; the depth stays
8, and the shape may be odd: at equal parameters the loss hardly depends on it (arXiv 2001.08361, section 3.2)."""


def _known(size: Any) -> Any:
    if isinstance(size, str):
        if size not in LADDER:
            raise ConfigError(f"size {size!r} is none of {', '.join(LADDER)}; give a table of your own")
        return LADDER[size]
    return size


AnySize = Annotated[Size, BeforeValidator(_known)]
"""A row of the ladder by its name, or a table."""


def mixers_of(size: Size) -> dict[str, dict[str, Any]]:
    """By name, the module of each mixer at a size, as `StackRecipe.modules` has them, and `mlp`.

    Softmax layers are grouped-query attention with half as many (or fewer) key heads, output gate, QK-norm and a
    rotation of half the channels (Qwen3-Next's); window layers have sinks beside (MiMo-V2's).
    """
    heads, dim = size.num_heads, size.head_dim
    few = max(n for n in range(1, max(1, heads // 2) + 1) if heads % n == 0)
    keys_and_values = {"num_heads": heads, "key_dim": dim, "value_dim": dim}
    half = {"qk_norm": {"eps": 1e-5}, "rope": {"rotary_dim": dim // 2, "theta": 10000.0}}
    softmax = {"kind": "softmax", "num_heads": heads, "num_kv_heads": few, "head_dim": dim, "output_gate": True, **half}
    delta = {"num_key_heads": heads, "num_value_heads": heads, "key_dim": dim, "value_dim": dim}
    state_space = {"num_heads": 2 * heads, "head_dim": dim, "num_groups": 1, "state_dim": dim}
    return {
        "kda": {"kind": "kda", "gate_rank": dim, **keys_and_values},
        "gated_delta": {"kind": "gated_delta", **delta},
        "mamba2": {"kind": "mamba2", **state_space},
        "lightning": {"kind": "lightning", "num_heads": heads, "head_dim": dim, "slopes": "bailing", **half},
        "linear": {"kind": "linear", **keys_and_values},
        "gla": {"kind": "gla", **keys_and_values},
        "softmax": softmax,
        "window": {**softmax, "window": WINDOW, "sinks": True},
        "mla": {
            "kind": "mla",
            "num_heads": heads,
            "kv_lora_dim": 2 * dim,
            "nope_dim": dim,
            "rope_dim": dim // 2,
            "value_dim": dim,
        },
        "mlp": {"kind": "mlp", "intermediate_dim": size.mlp_dim},
    }
