"""Qwen2 and Qwen2.5, dense (arXiv 2407.10671, 2412.15115; Qwen2.5-0.5B to Qwen2.5-72B).

Llama, except for biases on the projections of queries, keys and values, always, and nowhere else; and except for layers
whose attention has a window, where config.json asks for them. Verified against transformers 5.23 on random weights
(tests/parity/test_parity_qwen2.py).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyla.errors import ConfigError
from hyla.models.config import MLPConfig, ModelConfig, NormConfig, SoftmaxConfig
from hyla.models.formats import published as hf
from hyla.models.formats.dense import IGNORED_TENSORS, NAMES, DenseKeys, dense_keys
from hyla.models.formats.family import Family
from hyla.models.formats.modules import GROUPED_QUERY, MLP


class Keys(DenseKeys):
    """HANDLED keys of config.json."""

    use_sliding_window: bool = False
    sliding_window: hf.Count | None = None
    max_window_layers: int = Field(default=28, ge=0)
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None


def _layer_types(keys: Keys) -> list[str]:
    """What each layer attends to: listed, or a window from layer `max_window_layers` on where there is one."""
    count = keys.num_hidden_layers
    first = keys.max_window_layers if keys.use_sliding_window else count
    default = ["full_attention" if layer < first else "sliding_attention" for layer in range(count)]
    types = hf.layer_list("qwen2", "layer_types", keys.layer_types, default, count)
    if "sliding_attention" in types and not (keys.use_sliding_window and keys.sliding_window):
        raise ConfigError(
            f"qwen2: layer_types in config.json asks for a window that use_sliding_window = {keys.use_sliding_window} "
            f"and sliding_window = {keys.sliding_window} do not give; set both"
        )
    return types


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    keys, norm = keys.with_heads(), NormConfig(eps=keys.rms_norm_eps)
    mlp, rope, modules = hf.build(MLPConfig, keys, MLP), keys.rope(), []
    for kind in _layer_types(keys):
        window = keys.sliding_window if kind == "sliding_attention" else None
        modules += [hf.build(SoftmaxConfig, keys, GROUPED_QUERY, rope=rope, qkv_bias=True, window=window), mlp]
    return ModelConfig(family="qwen2", **keys.common(), **hf.prenorm(norm, modules))


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    windows = [mixer.window for mixer in config.mixers if isinstance(mixer, SoftmaxConfig)]
    window = next((window for window in windows if window), None)
    return {
        **dense_keys(config),
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
    }


def _size(hidden: int, layers: int, heads: tuple[int, int], intermediate: int, **others) -> dict:
    """heads: of queries, of keys and values."""
    return {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "intermediate_size": intermediate,
        "rope_theta": 1e6,
        "max_position_embeddings": 32768,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        **others,
    }


TIED = {"tie_word_embeddings": True}
LARGE = {"vocab_size": 152064, "max_position_embeddings": 131072}

FAMILY = Family(
    name="qwen2",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="Qwen2ForCausalLM",
    names=NAMES,
    ignored={"use_mrope": "of multimodal relatives; the three positions of text are equal"},
    ignored_tensors=IGNORED_TENSORS,
    tiny_config={
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "max_position_embeddings": 512,
        "eos_token_id": 96,
    },
    sizes={
        "Qwen2.5-0.5B": _size(896, 24, (14, 2), 4864, **TIED),
        "Qwen2.5-1.5B": _size(1536, 28, (12, 2), 8960, **{**TIED, "max_position_embeddings": 131072}),
        "Qwen2.5-3B": _size(2048, 36, (16, 2), 11008, **TIED),
        "Qwen2.5-7B": _size(3584, 28, (28, 4), 18944, **LARGE),
        "Qwen2.5-14B": _size(5120, 48, (40, 8), 13824, **{**LARGE, "rms_norm_eps": 1e-5}),
        "Qwen2.5-32B": _size(5120, 64, (40, 8), 27648, **{**LARGE, "rms_norm_eps": 1e-5}),
        "Qwen2.5-72B": _size(8192, 80, (64, 8), 29568, **{**LARGE, "rms_norm_eps": 1e-5}),
    },
)
