"""Two models side by side: the full-attention twin, ratios, and the context from which one is cheaper."""

from __future__ import annotations

from collections.abc import Callable

from hyla.errors import ConfigError
from hyla.models.config import MLAConfig, ModelConfig, SoftmaxConfig

LONGEST_CONTEXT = 1 << 24
"""Where the search for a crossover ends."""
POINTS_PER_OCTAVE = 4


def is_full(mixer) -> bool:
    """Whether a mixer's memory and time grow with the context without bound."""
    return mixer.kind == "mla" or (mixer.kind == "softmax" and mixer.window is None)


def full_attention_twin(config: ModelConfig) -> ModelConfig:
    """The same model with its own full-attention mixer in every layer; sparse MLA becomes MLA.

    Raises ConfigError for a model that has none to put there.
    """
    full = next((mixer for mixer in config.mixers if is_full(mixer)), None)
    dense = _dense(config)
    put = full or dense
    if put is None:
        kinds = ", ".join(dict.fromkeys(mixer.kind for mixer in config.mixers))
        raise ConfigError(f"the model has no full-attention layer to build a twin from; its mixers are {kinds}")
    sublayers = tuple(
        sub if sub.module.kind in ("mlp", "moe") or is_full(sub.module) else sub.model_copy(update={"module": put})
        for sub in config.sublayers
    )
    return config.model_copy(update={"sublayers": sublayers})


def _dense(config: ModelConfig) -> MLAConfig | SoftmaxConfig | None:
    """Full attention from a sparse or windowed mixer, for a model that has no other."""
    for mixer in config.mixers:
        if mixer.kind == "sparse_mla":
            kept = {name: getattr(mixer, name) for name in MLAConfig.model_fields if name != "kind"}
            return MLAConfig(**kept)
        if mixer.kind == "softmax":
            return mixer.model_copy(update={"window": None, "sinks": False})
    return None


def crossover(first: Callable[[int], float], second: Callable[[int], float]) -> int | None:
    """The smallest context from which `first` costs less than `second` and goes on to: tokens, or None.

    Found between points of a logarithmic grid, of which the later ones all favour `first`.
    """
    grid = [round(2 ** (i / POINTS_PER_OCTAVE)) for i in range(LONGEST_CONTEXT.bit_length() * POINTS_PER_OCTAVE)]
    grid = sorted({point for point in grid if point <= LONGEST_CONTEXT})
    cheaper = [first(point) < second(point) for point in grid]
    if not cheaper[-1]:
        return None
    begins = max((i for i, is_cheaper in enumerate(cheaper) if not is_cheaper), default=-1) + 1
    if begins == 0:
        return grid[0]
    low, high = grid[begins - 1], grid[begins]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if first(middle) < second(middle) else (middle, high)
    return high
