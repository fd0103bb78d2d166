"""Qwen3.5, dense text tower (Qwen/Qwen3.5-0.8B to Qwen3.5-27B).

Qwen3-Next, except: SwiGLU in every layer, and projections stored apart instead of interleaved by key head. Reads the
multimodal `qwen3_5` folders (`text_config`, tensors under `model.language_model.`, however often) and `qwen3_5_text`;
writes the latter. mRoPE equals partial RoPE on text. The vision tower is not loaded, and reported.
Verified against transformers 5.23 on random weights (tests/parity/test_parity_qwen3_5.py).
"""

from __future__ import annotations

from typing import Literal

from hyla.models.config import MLPConfig, ModelConfig
from hyla.models.families.qwen3_next import (
    GATED_ATTENTION,
    GATED_DELTA,
    MLP,
    MTP_NAMES,
    TINY,
    HybridKeys,
    hybrid_keys,
)
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.names import SWIGLU, fuse, weights

_MULTIMODAL = "only the language model is read"
IGNORED = {
    "image_token_id": _MULTIMODAL,
    "video_token_id": _MULTIMODAL,
    "vision_start_token_id": _MULTIMODAL,
    "vision_end_token_id": _MULTIMODAL,
    "vision_config": _MULTIMODAL,
    "language_model_only": _MULTIMODAL,
    "mamba_ssm_dtype": "states are always fp32",
}
IGNORED_TENSORS = {
    r"model\.visual\.": _MULTIMODAL,
}


class Keys(HybridKeys):
    """HANDLED keys of config.json (of its text_config)."""

    num_key_value_heads: hf.Count = 4
    intermediate_size: hf.Count
    attn_output_gate: Literal[True] = True
    output_gate_type: Literal["swish"] = "swish"
    mlp_only_layers: list[int] = []  # noqa: RUF012 (pydantic copies defaults); every layer is dense anyway
    mtp_num_hidden_layers: Literal[0, 1] = 1
    mtp_use_dedicated_embeddings: Literal[False] = False


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    dense = hf.build(MLPConfig, keys, MLP)
    modules = [module for mixer in keys.mixers("qwen3_5") for module in (mixer, dense)]
    mtp = keys.mtp(keys.mtp_num_hidden_layers, dense)
    return ModelConfig(family="qwen3_5_text", **keys.common(), **hf.prenorm(keys.norm(), modules), mtp=mtp)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    return {**hybrid_keys(config), "mtp_num_hidden_layers": len(config.mtp)}


MIXER_NAMES = {
    "softmax": GATED_ATTENTION,
    "gated_delta": (
        fuse("linear_attn.in_proj_qkv.weight", [f"{name}.weight" for name in "qkv"]),
        *weights("linear_attn.in_proj_", "z z", "b b", "a a"),
        *GATED_DELTA,
    ),
}
NAMES = {**MIXER_NAMES, "mlp": weights("mlp.", *SWIGLU)}
_NESTS = r"^(?:(?:model|language_model)\.)*"
TEXT_ALIASES = (
    (_NESTS + r"(?=(?:layers|embed_tokens|norm)\.)", "model."),
    (_NESTS + r"(?=(?:lm_head|mtp)\.)", ""),
    (_NESTS + r"(?:visual|vision_tower)\.", "model.visual."),
)
"""The language model stands below `model.language_model.`; savers leave parts of that out, turn it around or repeat it,
and name the vision tower, which is not read, with or without `model.`"""

COMMON_SIZE = {
    "vocab_size": 248320,
    "rope_parameters": {"rope_theta": 1e7, "partial_rotary_factor": 0.25},
    "max_position_embeddings": 262144,
}

OWN_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "linear_num_value_heads",
    "intermediate_size",
    "tie_word_embeddings",
)


def _size(hidden: int, layers: int, heads: tuple[int, int], value_heads: int, intermediate: int, tied: bool) -> dict:
    return {
        **COMMON_SIZE,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "linear_num_value_heads": value_heads,
        "intermediate_size": intermediate,
        "tie_word_embeddings": tied,
    }


FAMILY = Family(
    name="qwen3_5_text",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="Qwen3_5ForCausalLM",
    names=NAMES,
    mtp=MTP_NAMES,
    aliases=TEXT_ALIASES,
    text_key="text_config",
    ignored=IGNORED,
    ignored_tensors=IGNORED_TENSORS,
    tiny_config={**TINY, "intermediate_size": 80, "tie_word_embeddings": True},
    sizes={
        "Qwen3.5-0.8B": _size(1024, 24, (8, 2), 16, 3584, True),
        "Qwen3.5-4B": _size(2560, 32, (16, 4), 32, 9216, True),
        "Qwen3.5-9B": _size(4096, 32, (16, 4), 32, 12288, False),
        "Qwen3.5-27B": _size(5120, 64, (24, 4), 48, 17408, False),
    },
    assumed={"Qwen3.5-0.8B": dict.fromkeys(OWN_SIZES, "read in a single copy of its config.json")},
)
