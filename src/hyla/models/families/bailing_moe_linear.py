"""Ring-linear 2.0: lightning attention with a grouped-query attention layer every 5 or 8 (arXiv 2510.19338).

The trunk, except nothing. The last layers that do not fill a group are attention layers as well. Lightning layers have
all heads on both sides, QK-norm, partial RoPE, and an output norm by groups; `group_norm_size` is their number.

Sources disagree about the slopes by depth: the publishers' code multiplies by 1 - (l - 1) / (L - 1) + 1e-5 with l from
0, which is the default here and what their own logits confirm for Ling 2.5 (tests/parity/test_parity_bailing.py); some
serving engines use l, or max(0, l - 1), for the same checkpoints. Our key `lightning_slopes` ("bailing",
"bailing_engines", "bailing_clamped") chooses. Verified against an independent float64 reference of the whole model.
"""

from __future__ import annotations

from typing import Literal

from hyla.models.config import LightningConfig, MixerConfig, ModelConfig, SoftmaxConfig
from hyla.models.families import bailing_moe_v2 as base
from hyla.models.formats import bailing
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.mtp_names import BAILING
from hyla.models.formats.names import weights

# Published key: field of our config.
LIGHTNING = {"num_attention_heads": "num_heads", "head_dim": "head_dim", "group_norm_size": "norm_groups"}
LIGHTNING |= {"lightning_slopes": "slopes"}


class LinearKeys(bailing.BailingKeys):
    """Keys of config.json that the families with lightning layers handle."""

    layer_group_size: hf.Several = 5
    group_norm_size: hf.Count = 4
    linear_silu: Literal[False] = False
    lightning_slopes: Literal["bailing", "bailing_engines", "bailing_clamped"] = "bailing"

    def lightning(self, layer: int) -> LightningConfig:
        """The lightning mixer of one layer."""
        norm = self.norm()
        return hf.build(
            LightningConfig,
            self,
            LIGHTNING,
            layer=layer,
            num_layers=self.num_hidden_layers,
            qk_norm=norm if self.use_qk_norm else None,
            rope=self.rope_parameters.of_head(self.head_dim),
            norm_eps=norm.eps,
        )

    def mixers(self, full: MixerConfig) -> list[MixerConfig]:
        """The mixer of each layer: `full` closes every group, and stands in an unfilled last one."""
        group, count = self.layer_group_size, self.num_hidden_layers
        tail = count // group * group
        is_full = [(layer + 1) % group == 0 or layer >= tail for layer in range(count)]
        return [full if is_full[layer] else self.lightning(layer) for layer in range(count)]


class Keys(LinearKeys, base.Keys):
    """HANDLED keys of config.json."""


def lightning_keys(config: ModelConfig) -> dict:
    """The inverse of `LinearKeys.mixers` and `LinearKeys.lightning`."""
    lightning = hf.first(config, LightningConfig)
    kinds = [mixer.kind for mixer in config.mixers]
    is_full = [kind != "lightning" for kind in kinds]
    group = is_full.index(True) + 1 if True in is_full else len(kinds) + 1
    if lightning is None:
        return {"layer_group_size": 1}
    keys = {**hf.publish(lightning, LIGHTNING), "layer_group_size": group}
    keys["use_qk_norm"] = lightning.qk_norm is not None
    return keys | (hf.rope_keys(lightning.rope, lightning.head_dim) if lightning.rope else {})


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    full = keys.attention()
    return keys.model("bailing_moe_linear", keys.mixers(full), full)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    attention = hf.first(config, SoftmaxConfig)
    return bailing.bailing_keys(config) | lightning_keys(config) | (base.attention_keys(attention) if attention else {})


LIGHTNING_NAMES = (
    bailing.QKV,
    *bailing.QK_NORMS,
    *weights("attention.", "g_proj gate", "g_norm norm", "dense o"),
)
NAMES = {**base.NAMES, "lightning": LIGHTNING_NAMES}

# fmt: off
TINY = {**bailing.TINY_COMMON, "num_hidden_layers": 4, "layer_group_size": 3, "group_norm_size": 5}
LONG = {"rope_theta": 1e6, "max_position_embeddings": 131072}
SIZES = {
    "Ring-mini-linear-2.0": bailing.MINI | LONG | {"layer_group_size": 5, "group_norm_size": 4},
    "Ring-flash-linear-2.0": bailing.FLASH | LONG | {"layer_group_size": 8, "group_norm_size": 8},
}
_OF_MINI = ("rope_theta", "max_position_embeddings", "partial_rotary_factor", "rms_norm_eps", "eos_token_id")
_OF_FLASH = (
    "num_experts", "num_experts_per_tok", "moe_intermediate_size", "num_shared_experts", "n_group", "topk_group",
    "routed_scaling_factor", "first_k_dense_replace",
)
ASSUMED = {
    "group_norm_size": "that of Ling-2.5-1T, which has groups of 8 layers as well",
    **dict.fromkeys(_OF_MINI, "as in Ring-mini-linear-2.0"),
    **dict.fromkeys(_OF_FLASH, "as in Ring-flash-2.0; the counts of parameters are the published ones"),
}
# fmt: on

FAMILY = Family(
    name="bailing_moe_linear",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="BailingMoeLinearV2ForCausalLM",
    names=NAMES,
    trunk=bailing.TRUNK,
    ignored=bailing.IGNORED,
    mtp=BAILING,
    tiny_config=TINY,
    sizes=SIZES,
    assumed={"Ring-flash-linear-2.0": ASSUMED},
)
