"""The same model with full attention in every layer."""

from __future__ import annotations

from hyla.errors import ConfigError
from hyla.models.config import MLAConfig, ModelConfig, ModuleConfig, SoftmaxConfig, SparseMLAConfig
from hyla.models.kinds import Attention, kind_of


def is_full(mixer: ModuleConfig) -> bool:
    """Whether a mixer's memory and time grow with the context without bound."""
    work = kind_of(mixer).work
    found = work(mixer) if work else None
    return isinstance(found, Attention) and found.sees_everything


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
        sub if not sub.is_mixer or is_full(sub.module) else sub.model_copy(update={"module": put})
        for sub in config.sublayers
    )
    return config.model_copy(update={"sublayers": sublayers})


def _dense(config: ModelConfig) -> MLAConfig | SoftmaxConfig | None:
    """Full attention from a sparse or windowed mixer, for a model that has no other."""
    for mixer in config.mixers:
        if isinstance(mixer, SparseMLAConfig):
            kept = {name: getattr(mixer, name) for name in MLAConfig.model_fields if name != "kind"}
            return MLAConfig(**kept)
        if isinstance(mixer, SoftmaxConfig):
            return mixer.model_copy(update={"window": None, "sinks": False})
    return None
