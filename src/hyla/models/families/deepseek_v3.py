"""DeepSeek-V3: MLA with a query latent and interleaved RoPE, leading dense layers, MoE with grouped routing.

The trunk, except nothing (arXiv 2412.19437). The latents' norms have eps 1e-6 whatever `rms_norm_eps` is: the published
code leaves it at its default. YaRN's magnitude is taken out of the rotation (mscale / mscale_all_dim) and put, squared,
on the softmax scale. Verified against transformers 5.23 on random weights (tests/parity/test_parity_deepseek.py):
largest difference of fp32 logits 1.4e-6 of the largest.

MTP modules stand behind the last layer, with MoE and with an embedding and a head of their own. Trunk and steps hand on
their state after the final norm, as in transformers (tests/parity/test_parity_mtp.py); our key `mtp_hands_on` = "raw"
hands on a step's before it, as vLLM does and as equations 24 and 25 of the report can be read.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from hyla.errors import ConfigError
from hyla.models.config import MLAConfig, MLPConfig, ModelConfig, MoEConfig, NormConfig, RopeConfig, RouterConfig
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import EXPERTS, LATENT_EPS, MLA, MLP, MLAKeys, mla_names
from hyla.models.formats.mtp_names import DEEPSEEK
from hyla.models.formats.names import SWIGLU, rename, weights

IGNORED = {
    "aux_loss_alpha": "the weight of a training loss",
    "ep_size": "a parallel layout of the original training",
    "head_dim": "the rotated part's size in other libraries, which is qk_rope_head_dim",
    "mlp_bias": "no MLP of this family has one",
    "qk_head_dim": "the sum of qk_nope_head_dim and qk_rope_head_dim",
    "seq_aux": "a variant of a training loss",
}

# fmt: off
# Published key: field of our config.
MOE = {
    "n_routed_experts": "num_experts", "num_experts_per_tok": "num_experts_per_token",
    "moe_intermediate_size": "expert_dim",
}
ROUTER = {
    "scoring_func": "score", "norm_topk_prob": "normalize", "n_group": "num_groups",
    "topk_group": "num_groups_kept", "routed_scaling_factor": "scaling",
}
# fmt: on
COUNTS = ("num_nextn_predict_layers", "num_mtp_layers")  # the hub's spelling and that of transformers


class Keys(MLAKeys, hf.Published):
    """HANDLED keys of config.json; the defaults are DeepSeek-V3's."""

    intermediate_size: hf.Count = 18432
    num_attention_heads: hf.Count = 128
    num_key_value_heads: hf.Count | None = None
    rope_parameters: hf.RopeParameters = hf.RopeParameters()
    rope_interleave: bool = True
    first_k_dense_replace: int = Field(default=3, ge=0)
    mlp_layer_types: list[Literal["dense", "sparse"]] | None = None
    moe_layer_freq: Literal[1] = 1
    n_routed_experts: hf.Several = 256
    n_shared_experts: hf.Count = 1
    num_experts_per_tok: hf.Count = 8
    moe_intermediate_size: hf.Count = 2048
    n_group: hf.Count = 8
    topk_group: hf.Count = 4
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    scoring_func: Literal["sigmoid"] = "sigmoid"
    topk_method: Literal["noaux_tc"] = "noaux_tc"
    num_nextn_predict_layers: int = Field(0, ge=0, le=64, validation_alias=AliasChoices(*COUNTS))
    mtp_hands_on: Literal["normed", "raw"] = "normed"

    def attention(self, family: str) -> dict:
        """The fields of `MLAConfig` that are not sizes."""
        if self.num_key_value_heads not in (None, self.num_attention_heads):
            raise ConfigError(
                f"{family}: num_key_value_heads = {self.num_key_value_heads} must equal num_attention_heads"
            )
        rope = self.rope_parameters.of_head(self.qk_rope_head_dim)
        rope = RopeConfig(**{**rope.model_dump(), "interleaved": self.rope_interleave})
        factor = self.rope_parameters.softmax_factor()
        return {"norm_eps": LATENT_EPS, "rope": rope, "scale_factor": factor}

    def model(self, family: str, mixer: MLAConfig) -> ModelConfig:
        """The stack: one kind of mixer, dense layers first."""
        shared_dim = self.moe_intermediate_size * self.n_shared_experts
        router = hf.build(RouterConfig, self, ROUTER, has_bias=True)
        channel_mixers = {
            "dense": hf.build(MLPConfig, self, MLP),
            "sparse": hf.build(MoEConfig, self, MOE, shared_dim=shared_dim, router=router),
        }
        count, dense = self.num_hidden_layers, self.first_k_dense_replace
        default = ["dense" if layer < dense else "sparse" for layer in range(count)]
        kinds = hf.layer_list(family, "mlp_layer_types", self.mlp_layer_types, default, count)
        layers = [module for kind in kinds for module in (mixer, channel_mixers[kind])]
        norm = NormConfig(eps=self.rms_norm_eps)
        own = {"has_own_embedding": True, "has_own_head": True, "hands_on": self.mtp_hands_on}
        mtp = hf.predictors(self.num_nextn_predict_layers, norm, [mixer, channel_mixers["sparse"]], **own)
        return ModelConfig(family=family, **self.common(), **hf.prenorm(norm, layers), mtp=mtp)


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    return keys.model("deepseek_v3", hf.build(MLAConfig, keys, MLA, **keys.attention("deepseek_v3")))


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    mixer = config.mixers[0] if config.mixers else None
    moe, mlp = hf.first(config, MoEConfig), hf.first(config, MLPConfig)
    keys = hf.common_keys(config)
    keys["first_k_dense_replace"] = [sub.module.kind for sub in config.sublayers].count("mlp")
    keys["num_nextn_predict_layers"] = len(config.mtp)
    if config.mtp:
        keys["mtp_hands_on"] = config.mtp[0].hands_on
    if isinstance(mixer, MLAConfig):
        keys |= hf.publish(mixer, MLA | {"num_key_value_heads": "num_heads"})
        if mixer.rope:
            keys |= hf.rope_keys(mixer.rope, mixer.rope_dim) | {"rope_interleave": mixer.rope.interleaved}
    keys |= hf.publish(mlp, MLP) | hf.publish(moe, MOE)
    if moe:
        keys |= {"n_shared_experts": moe.shared_dim // moe.expert_dim, **hf.publish(moe.router, ROUTER)}
    return keys


NAMES = {
    "mla": mla_names("self_attn."),
    "mlp": weights("mlp.", *SWIGLU),
    "moe": (
        rename("mlp.gate.weight", "router"),
        rename("mlp.gate.e_score_correction_bias", "router_bias"),
        *EXPERTS,
        *weights("mlp.shared_experts.", *SWIGLU, ours="shared."),
    ),
}

# fmt: off
YARN = {
    "rope_type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096, "rope_theta": 10000.0,
}
TINY = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 5,
    "q_lora_rank": 20, "kv_lora_rank": 28, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 12,
    "first_k_dense_replace": 1, "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 2,
    "moe_intermediate_size": 20, "n_group": 3, "topk_group": 2, "max_position_embeddings": 512,
    "bos_token_id": 94, "eos_token_id": 95, "rope_parameters": {**YARN, "original_max_position_embeddings": 64},
    "num_nextn_predict_layers": 2,
}
SIZE = {
    "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "q_lora_rank": 1536,
    "max_position_embeddings": 163840, "rope_parameters": YARN, "bos_token_id": 0, "eos_token_id": 1,
    "num_nextn_predict_layers": 1,
}
# fmt: on

FAMILY = Family(
    name="deepseek_v3",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="DeepseekV3ForCausalLM",
    names=NAMES,
    ignored=IGNORED,
    mtp=DEEPSEEK,
    tiny_config=TINY,
    sizes={"DeepSeek-V3": SIZE},
)
