"""Layers. What is named here is for models of one's own: each mixer alone, `[B, T, D]` in and out (docs/layers.md).

The package itself builds models from the modules: `hyla.layers.kda.KDA` and its siblings, over packed batches.
"""

from importlib import import_module

__all__ = [
    "GLA",
    "KDA",
    "MLA",
    "GatedDelta",
    "Lightning",
    "LinearAttention",
    "Mamba2",
    "MixerCache",
    "SoftmaxAttention",
    "SparseMLA",
    "StandaloneMixer",
]


def __getattr__(name: str):
    # Imported at its first use: `hyla.layers.protocol` must not load every mixer.
    if name not in __all__:
        raise AttributeError(f"module 'hyla.layers' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module("hyla.layers.standalone"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
