"""MiMo-V2-Flash: five window layers with sinks to one full attention layer, MoE after a dense first layer.

The trunk, with values narrower than keys and scaled before they are cached, partial RoPE, key heads and theta by layer
type. Reads the hub's keys (hybrid_layer_pattern, swa_*) and those of transformers (layer_types). Verified against
transformers 5.23 on random weights (tests/parity/test_parity_mimo_v2.py). An MTP block is a window layer with a dense
MLP; each reads the trunk's state before its final norm, not the block before it, as in SGLang's engine for this family
(vLLM chains them). config.json does not count them; the checkpoint has three.

Of config.json's window of 128, vLLM and MLX make 128 keys with a row's own, transformers and SGLang 129. We read 128;
`sliding_window_excludes_self = true` (our key) adds one. Transformers saves `sliding_window` = 129 beside
sliding_window_size = 128, which is read as 129; we write `sliding_window` alone, which it reads as we do.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyla.errors import ConfigError
from hyla.models.config import MLPConfig, ModelConfig, MoEConfig, NormConfig, RouterConfig, SoftmaxConfig
from hyla.models.families import deepseek_v3
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import MLP
from hyla.models.formats.mtp_names import MIMO_V2
from hyla.models.formats.names import rename, weights

IGNORED = {
    "attention_chunk_size": "repeats the window; no published code reads it",
    "hybrid_block_size": "made hybrid_layer_pattern, which is given",
}

# fmt: off
# Published key: field of our config.
FULL = {
    "num_attention_heads": "num_heads", "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim",
    "v_head_dim": "value_dim", "add_full_attention_sink_bias": "sinks", "attention_value_scale": "value_scale",
}
SWA = {
    "swa_num_attention_heads": "num_heads", "swa_num_key_value_heads": "num_kv_heads", "swa_head_dim": "head_dim",
    "swa_v_head_dim": "value_dim", "add_swa_attention_sink_bias": "sinks", "attention_value_scale": "value_scale",
}
# fmt: on
FRACTION = 0.334  # of a head's channels that is rotated, where config.json does not say: 64 of 192
LAYER_TYPES, MLP_TYPES = ("full_attention", "sliding_attention"), ("dense", "sparse")


class RopeByType(hf.RopeParameters):
    """One position code (the full layers'), or one per layer type (transformers)."""

    full_attention: hf.RopeParameters | None = None
    sliding_attention: hf.RopeParameters | None = None


class Keys(hf.Published):
    """HANDLED keys of config.json. The swa_ keys default to the full layers' numbers, twice the key heads."""

    rms_norm_eps: float = Field(default=1e-5, gt=0)
    layernorm_epsilon: float | None = Field(default=None, gt=0)
    intermediate_size: hf.Count = 16384
    num_attention_heads: hf.Count
    num_key_value_heads: hf.Count
    head_dim: hf.Count = 192
    v_head_dim: hf.Count = 128
    swa_num_attention_heads: hf.Count | None = None
    swa_num_key_value_heads: hf.Count | None = None
    swa_head_dim: hf.Count | None = None
    swa_v_head_dim: hf.Count | None = None
    add_full_attention_sink_bias: bool = False
    add_swa_attention_sink_bias: bool = True
    attention_value_scale: float = 1.0
    rope_parameters: RopeByType = RopeByType()
    swa_rope_theta: float = Field(default=10000.0, gt=0)
    sliding_window: hf.Count | None = None
    sliding_window_size: hf.Count | None = None
    sliding_window_excludes_self: bool = False
    hybrid_layer_pattern: list[Literal[0, 1]] | None = None
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    moe_layer_freq: list[Literal[0, 1]] | None = None
    mlp_layer_types: list[Literal["dense", "sparse"]] | None = None
    n_routed_experts: hf.Several = 256
    n_shared_experts: Literal[0] = 0
    num_experts_per_tok: hf.Count = 8
    moe_intermediate_size: hf.Count = 2048
    scoring_func: Literal["sigmoid"] = "sigmoid"
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    norm_topk_prob: bool = True
    n_group: hf.Count = 1
    topk_group: hf.Count = 1
    routed_scaling_factor: float = 1.0
    num_nextn_predict_layers: int = Field(default=3, ge=0, le=64)

    def window(self, family: str) -> int:
        """Keys that a row of a window layer sees, its own included."""
        window, size = self.sliding_window, self.sliding_window_size
        if window is not None and size is not None and window not in (size, size + 1):
            raise ConfigError(f"{family}: sliding_window is {window} beside sliding_window_size = {size}; keep one")
        return (window or size or 128) + self.sliding_window_excludes_self

    def mixers(self, family: str) -> dict[str, SoftmaxConfig]:
        """The mixer of each layer type."""
        rope = self.rope_parameters
        swa_rope = rope.sliding_attention or rope.model_copy(update={"rope_theta": self.swa_rope_theta})
        given = {ours: getattr(self, name) for name, ours in SWA.items() if getattr(self, name) is not None}
        full = {ours: getattr(self, name) for name, ours in FULL.items()}
        swa = {**full, "num_kv_heads": 2 * self.num_key_value_heads, **given, "window": self.window(family)}
        full["rope"] = (rope.full_attention or rope).of_head(self.head_dim, FRACTION)
        swa["rope"] = swa_rope.of_head(swa["head_dim"], FRACTION)
        return {"full_attention": SoftmaxConfig(**full), "sliding_attention": SoftmaxConfig(**swa)}


def mimo_config(keys: Keys, family: str) -> ModelConfig:
    """config.json -> ModelConfig."""
    eps = keys.rms_norm_eps if keys.layernorm_epsilon is None else keys.layernorm_epsilon
    if "rms_norm_eps" in keys.model_fields_set and keys.rms_norm_eps != eps:
        raise ConfigError(f"{family}: rms_norm_eps is {keys.rms_norm_eps} beside layernorm_epsilon = {eps}; keep one")
    router = hf.build(RouterConfig, keys, deepseek_v3.ROUTER, has_bias=True)
    modules = {
        "dense": hf.build(MLPConfig, keys, MLP),
        "sparse": hf.build(MoEConfig, keys, deepseek_v3.MOE, router=router),
    }
    modules |= keys.mixers(family)
    count = keys.num_hidden_layers
    default = [LAYER_TYPES[layer > 0 and (layer + 1) % 6 != 0] for layer in range(count)]
    mixers = hf.named_layers(family, keys, "hybrid_layer_pattern", "layer_types", LAYER_TYPES, default)
    default = ["dense"] + ["sparse"] * (count - 1)
    kinds = hf.named_layers(family, keys, "moe_layer_freq", "mlp_layer_types", MLP_TYPES, default)
    layers = [modules[kind] for pair in zip(mixers, kinds) for kind in pair]
    norm, block = NormConfig(eps=eps), [modules["sliding_attention"], modules["dense"]]
    mtp = hf.predictors(keys.num_nextn_predict_layers, norm, block, reads="raw", hands_on="read")
    return ModelConfig(family=family, **keys.common(), **hf.prenorm(norm, layers), mtp=mtp)


def mimo_keys(config: ModelConfig) -> dict:
    """ModelConfig -> config.json, in the spellings of the hub and of transformers."""
    blocks = [sub.module for module in config.mtp for sub in module.sublayers]
    mixers = [mixer for mixer in (*blocks, *config.mixers) if isinstance(mixer, SoftmaxConfig)]
    softmax = {mixer.window is None: mixer for mixer in mixers}
    full, swa = softmax.get(True), softmax.get(False)
    if full is None and swa is not None:  # transformers doubles this number for window layers
        full = swa.model_copy(update={"num_kv_heads": max(1, swa.num_kv_heads // 2)})
    mlp, moe = hf.first(config, MLPConfig), hf.first(config, MoEConfig)
    is_window = [int(getattr(mixer, "window", None) is not None) for mixer in config.mixers]
    is_moe = [int(sub.module.kind == "moe") for sub in config.sublayers[1::2]]
    ropes = {
        kind: hf.rope_keys(mixer.rope, mixer.head_dim)["rope_parameters"]
        for kind, mixer in zip(LAYER_TYPES, (full, swa or full))
        if mixer and mixer.rope
    }
    return {
        **hf.common_keys(config),
        "layernorm_epsilon": config.final_norm.eps,
        **hf.publish(full, FULL),
        **hf.publish(swa, SWA | {"sliding_window": "window"}),
        "rope_parameters": ropes,
        "hybrid_layer_pattern": is_window,
        "layer_types": [LAYER_TYPES[number] for number in is_window],
        "moe_layer_freq": is_moe,
        "mlp_layer_types": [MLP_TYPES[number] for number in is_moe],
        **hf.publish(mlp, MLP),
        **hf.publish(moe, deepseek_v3.MOE),
        **hf.publish(moe and moe.router, deepseek_v3.ROUTER),
        "num_nextn_predict_layers": len(config.mtp),
    }


ATTENTION_NAMES = (*weights("self_attn.", "o_proj o"), rename("self_attn.attention_sink_bias", "sinks"))
MLP_NAMES = {kind: deepseek_v3.NAMES[kind] for kind in ("mlp", "moe")}
# fmt: off
TINY = {
    "vocab_size": 97, "hidden_size": 44, "num_hidden_layers": 3, "max_position_embeddings": 512, "eos_token_id": 96,
    "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 24, "v_head_dim": 20,
    "swa_num_key_value_heads": 2, "sliding_window": 70, "attention_value_scale": 0.707, "rope_theta": 5e6,
    "partial_rotary_factor": 0.334, "hybrid_layer_pattern": [0, 1, 1], "n_routed_experts": 5, "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
}
SIZES = {"MiMo-V2-Flash": {
    "vocab_size": 152576, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 48,
    "max_position_embeddings": 262144, "num_attention_heads": 64, "num_key_value_heads": 4, "rope_theta": 5e6,
    "partial_rotary_factor": 0.334, "sliding_window": 128, "sliding_window_size": 128, "attention_value_scale": 0.707,
    "layernorm_epsilon": 1e-5,
}}
# fmt: on

FAMILY = Family(
    name="mimo_v2_flash",
    schema=Keys,
    from_published=lambda keys: mimo_config(keys, "mimo_v2_flash"),
    to_published=mimo_keys,
    architecture="MiMoV2FlashForCausalLM",
    names={"softmax": (*weights("self_attn.", "q_proj q", "k_proj k", "v_proj v"), *ATTENTION_NAMES), **MLP_NAMES},
    aliases=((r"\.self_attn\.sinks$", ".self_attn.attention_sink_bias"),),
    ignored=IGNORED,
    mtp=MIMO_V2,
    tiny_config=TINY,
    sizes=SIZES,
)
