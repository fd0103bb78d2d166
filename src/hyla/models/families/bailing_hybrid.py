"""Ling 2.5 and Ring 2.5: seven lightning layers to one MLA layer, MoE with DeepSeek's router.

As Ring-linear 2.0, except MLA (with interleaved RoPE) in the full layers. The QK-norm is that of the lightning layers.
One rotary table serves both mixers, so head_dim * partial_rotary_factor is qk_rope_head_dim; the latents' norms have
eps 1e-6 whatever `rms_norm_eps` is: the published code leaves it at its default. `bailing_hybrid` is also the
model_type of Ling 3.0 (KDA layers, known by `short_conv_kernel_size`), which is refused here.

Verified against logits of the publishers' own code for a tiny model, and against an independent float64 reference of
the whole model (tests/parity/test_parity_bailing.py). No library has this family.
"""

from __future__ import annotations

from hyla.errors import ConfigError
from hyla.models.config import LightningConfig, MLAConfig, ModelConfig
from hyla.models.families import bailing_moe_linear as linear
from hyla.models.formats import bailing
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import LATENT_EPS, MLA, MLAKeys, mla_names
from hyla.models.formats.mtp_names import BAILING

IGNORED = bailing.IGNORED | {"num_key_value_heads": "both mixers have all heads on both sides"}


class Keys(MLAKeys, linear.LinearKeys):
    """HANDLED keys of config.json."""

    rope_interleave: bool = True
    short_conv_kernel_size: hf.Count | None = None


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    if keys.short_conv_kernel_size is not None:
        raise ConfigError(
            f"bailing_hybrid: short_conv_kernel_size = {keys.short_conv_kernel_size} says that this is Ling 3.0, whose "
            "linear layers are KDA; this format is Ling 2.5"
        )
    rope = keys.rope_parameters.of_head(keys.head_dim)
    if rope.rotary_dim != keys.qk_rope_head_dim:
        raise ConfigError(
            f"bailing_hybrid: qk_rope_head_dim = {keys.qk_rope_head_dim} must be head_dim * partial_rotary_factor, "
            f"which is {rope.rotary_dim}"
        )
    rope = rope.model_copy(update={"interleaved": keys.rope_interleave})
    scale = keys.rope_parameters.softmax_factor()
    mla = hf.build(MLAConfig, keys, MLA, norm_eps=LATENT_EPS, rope=rope, scale_factor=scale)
    return keys.model("bailing_hybrid", keys.mixers(mla), mla)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    mla, lightning = hf.first(config, MLAConfig), hf.first(config, LightningConfig)
    keys = bailing.bailing_keys(config) | linear.lightning_keys(config) | hf.publish(mla, MLA)
    heads = mla or lightning
    keys |= {"num_key_value_heads": heads.num_heads} if heads else {}
    if mla and mla.rope:
        keys["rope_interleave"] = mla.rope.interleaved
        if lightning is None:
            keys |= {"head_dim": mla.rope_dim, **hf.rope_keys(mla.rope, mla.rope_dim)}
    elif lightning and lightning.rope:
        keys["qk_rope_head_dim"] = lightning.rope.rotary_dim
    return keys


NAMES = {
    "lightning": linear.LIGHTNING_NAMES,
    "mla": mla_names("attention.", out="dense"),
    **bailing.CHANNEL_MIXERS,
}

# fmt: off
TINY = linear.TINY | {
    "q_lora_rank": 22, "kv_lora_rank": 28, "qk_nope_head_dim": 10, "qk_rope_head_dim": 12, "v_head_dim": 14,
}
LARGE = bailing.MINI | {
    "hidden_size": 8192, "intermediate_size": 18432, "num_hidden_layers": 80, "num_attention_heads": 64,
    "moe_intermediate_size": 2048, "first_k_dense_replace": 4, "layer_group_size": 8, "group_norm_size": 8,
    "rope_theta": 6e6, "max_position_embeddings": 131072, "rope_scaling": None, "q_lora_rank": 1536,
    "num_nextn_predict_layers": 0,
}
ASSUMED = {
    "q_lora_rank": "that of Ling-2.6-flash",
    "routed_scaling_factor": "that of the smaller siblings",
    "rope_scaling": "the model card advises YaRN with factor 2 for longer contexts",
    "num_nextn_predict_layers": "the published checkpoint has such layers; their number is not known",
    **dict.fromkeys(("intermediate_size", "first_k_dense_replace"), "those of Ling-2.6-1T"),
    "eos_token_id": "that of Ring-mini-linear-2.0",
}
# fmt: on

FAMILY = Family(
    name="bailing_hybrid",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="BailingMoeV2_5ForCausalLM",
    names=NAMES,
    trunk=bailing.TRUNK,
    ignored=IGNORED,
    mtp=BAILING,
    tiny_config=TINY,
    sizes={"Ling-2.5-1T": LARGE, "Ring-2.5-1T": LARGE},
    assumed={"Ling-2.5-1T": ASSUMED, "Ring-2.5-1T": ASSUMED},
)
