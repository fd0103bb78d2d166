"""Llama and the dense models in its format (Llama 2 to 3.3, arXiv 2407.21783; SmolLM2, arXiv 2502.02737; many others).

The trunk with grouped-query attention in every layer; biases on all four projections of the attention or on those of
the MLP where config.json asks for them. Verified against transformers 5.23 on random weights
(tests/parity/test_parity_llama.py).
"""

from __future__ import annotations

from typing import Literal

from hyla.models.config import MLPConfig, ModelConfig, NormConfig, SoftmaxConfig
from hyla.models.formats import published as hf
from hyla.models.formats.dense import IGNORED_TENSORS, NAMES, DenseKeys, dense_keys
from hyla.models.formats.family import Family
from hyla.models.formats.modules import GROUPED_QUERY, MLP

IGNORED = {
    "is_llama_config": "a mark of converted checkpoints (SmolLM2)",
    "transformers.js_config": "how another library loads the file",
}


class Keys(DenseKeys):
    """HANDLED keys of config.json."""

    attention_bias: bool = False
    mlp_bias: bool = False
    rope_interleaved: Literal[False] = False


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    keys, norm = keys.with_heads(), NormConfig(eps=keys.rms_norm_eps)
    biased = {"qkv_bias": keys.attention_bias, "out_bias": keys.attention_bias}
    attention = hf.build(SoftmaxConfig, keys, GROUPED_QUERY, rope=keys.rope(), **biased)
    modules = [attention, hf.build(MLPConfig, keys, MLP, bias=keys.mlp_bias)] * keys.num_hidden_layers
    return ModelConfig(family="llama", **keys.common(), **hf.prenorm(norm, modules))


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    return {
        **dense_keys(config),
        **hf.publish(hf.first(config, SoftmaxConfig), {"attention_bias": "qkv_bias"}),
        **hf.publish(hf.first(config, MLPConfig), {"mlp_bias": "bias"}),
    }


def _size(hidden: int, layers: int, heads: tuple[int, int], intermediate: int, **others) -> dict:
    """heads: of queries, of keys and values."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "intermediate_size": intermediate,
        "rms_norm_eps": 1e-5,
        **others,
    }


def _smollm2(theta: float = 1e5) -> dict:
    return {
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "rope_theta": theta,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _llama3(factor: float, tied: bool = False) -> dict:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": tied,
        "rope_theta": 5e5,
        "rope_scaling": {**scaling, "original_max_position_embeddings": 8192},
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    }


FAMILY = Family(
    name="llama",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="LlamaForCausalLM",
    names=NAMES,
    ignored=IGNORED,
    ignored_tensors=IGNORED_TENSORS,
    tiny_config={
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "attention_bias": True,
        "mlp_bias": True,
        "max_position_embeddings": 512,
        "eos_token_id": 96,
    },
    sizes={
        "SmolLM2-135M": _size(576, 30, (9, 3), 1536, **_smollm2()),
        "SmolLM2-360M": _size(960, 32, (15, 5), 2560, **_smollm2()),
        "SmolLM2-1.7B": _size(2048, 24, (32, 32), 8192, **_smollm2(1.3e5)),
        "Llama-3.2-1B": _size(2048, 16, (32, 8), 8192, head_dim=64, **_llama3(32.0, tied=True)),
        "Llama-3.2-3B": _size(3072, 28, (24, 8), 8192, head_dim=128, **_llama3(32.0, tied=True)),
        "Llama-3.1-8B": _size(4096, 32, (32, 8), 14336, **_llama3(8.0)),
        "Llama-3.1-70B": _size(8192, 80, (64, 8), 28672, **_llama3(8.0)),
    },
)
