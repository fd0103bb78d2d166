"""Qwen3, dense: the full-attention baseline (arXiv 2505.09388; Qwen/Qwen3-0.6B to Qwen3-32B).

The trunk with grouped-query attention and QK-norm in every layer. Verified against transformers 5.23 on random weights
(tests/parity/test_parity_qwen3.py).
"""

from __future__ import annotations

from typing import Literal

from hyla.models.config import MLPConfig, ModelConfig, NormConfig, SoftmaxConfig
from hyla.models.formats import published as hf
from hyla.models.formats.dense import dense_keys
from hyla.models.formats.family import Family
from hyla.models.formats.modules import GROUPED_QUERY, MLP, QK_NORMED_ATTENTION
from hyla.models.formats.names import SWIGLU, weights

IGNORED = {
    "max_window_layers": "only used with use_sliding_window",
    "sliding_window": "only used with use_sliding_window",
}


class Keys(hf.Published):
    """HANDLED keys of config.json."""

    intermediate_size: hf.Count
    num_attention_heads: hf.Count
    num_key_value_heads: hf.Count = 8
    head_dim: hf.Count = 128
    rope_parameters: hf.RopeParameters = hf.RopeParameters()
    use_sliding_window: Literal[False] = False
    layer_types: list[Literal["full_attention"]] | None = None


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    count = keys.num_hidden_layers
    hf.layer_list("qwen3", "layer_types", keys.layer_types, ["full_attention"] * count, count)
    norm = NormConfig(eps=keys.rms_norm_eps)
    rope = keys.rope_parameters.of_head(keys.head_dim)
    attention = hf.build(SoftmaxConfig, keys, GROUPED_QUERY, qk_norm=norm, rope=rope)
    modules = [attention, hf.build(MLPConfig, keys, MLP)] * count
    return ModelConfig(family="qwen3", **keys.common(), **hf.prenorm(norm, modules))


NAMES = {
    "softmax": QK_NORMED_ATTENTION,
    "mlp": weights("mlp.", *SWIGLU),
}


def _size(hidden: int, layers: int, heads: int, intermediate: int, tied: bool) -> dict:
    return {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "tie_word_embeddings": tied,
        "rope_theta": 1e6,
        "max_position_embeddings": 40960,
    }


FAMILY = Family(
    name="qwen3",
    schema=Keys,
    from_published=from_published,
    to_published=dense_keys,
    architecture="Qwen3ForCausalLM",
    names=NAMES,
    ignored=IGNORED,
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
        "Qwen3-0.6B": _size(1024, 28, 16, 3072, True),
        "Qwen3-1.7B": _size(2048, 28, 16, 6144, True),
        "Qwen3-4B": _size(2560, 36, 32, 9728, True),
        "Qwen3-8B": _size(4096, 36, 32, 12288, False),
        "Qwen3-14B": _size(5120, 40, 40, 17408, False),
        "Qwen3-32B": _size(5120, 64, 64, 25600, False),
    },
)
