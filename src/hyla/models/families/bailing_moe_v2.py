"""Ling 2.0 and Ring 2.0: the full-attention baseline of Ring-linear (arXiv 2510.22115; Ling-mini-2.0 to Ling-1T).

The trunk with grouped-query attention, QK-norm and partial RoPE in every layer, and MoE with DeepSeek's router.
Queries, keys and values are one published matrix, block after block. Verified against an independent float64 reference
of the whole model (tests/parity/test_parity_bailing.py); transformers does not have this family. MTP modules stand
behind the last layer: full attention and MoE, each given the normed output before it, as in the publishers' code.
The hub calls this format `bailing_moe`, as it does Ling 1.5, which has no expert bias and is refused.
"""

from __future__ import annotations

from hyla.models.config import ModelConfig, SoftmaxConfig
from hyla.models.formats import bailing
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import GROUPED_QUERY
from hyla.models.formats.mtp_names import BAILING
from hyla.models.formats.names import weights


class Keys(bailing.BailingKeys):
    """HANDLED keys of config.json."""

    num_key_value_heads: hf.Count = 4

    def attention(self) -> SoftmaxConfig:
        """Grouped-query attention of the full layers."""
        rope = self.rope_parameters.of_head(self.head_dim)
        return hf.build(
            SoftmaxConfig, self, GROUPED_QUERY, qk_norm=self.norm() if self.use_qk_norm else None, rope=rope
        )


def attention_keys(attention: SoftmaxConfig) -> dict:
    """The inverse of `Keys.attention`."""
    keys = {**hf.publish(attention, GROUPED_QUERY), "use_qk_norm": attention.qk_norm is not None}
    return keys | (hf.rope_keys(attention.rope, attention.head_dim) if attention.rope else {})


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    full = keys.attention()
    return keys.model("bailing_moe_v2", [full] * keys.num_hidden_layers, full)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    attention = hf.first(config, SoftmaxConfig)
    return bailing.bailing_keys(config) | (attention_keys(attention) if attention else {})


SOFTMAX = (bailing.QKV, *bailing.QK_NORMS, *weights("attention.", "dense o"))
NAMES = {"softmax": SOFTMAX, **bailing.CHANNEL_MIXERS}

# fmt: off
LING = {"rope_theta": 600000.0, "max_position_embeddings": 32768, "eos_token_id": 156895}
SIZES = {"Ling-mini-2.0": bailing.MINI | LING, "Ling-flash-2.0": bailing.FLASH | LING}
_OF_FLASH = ("rope_theta", "partial_rotary_factor", "rms_norm_eps", "eos_token_id")
# fmt: on

FAMILY = Family(
    name="bailing_moe_v2",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="BailingMoeV2ForCausalLM",
    names=NAMES,
    trunk=bailing.TRUNK,
    ignored=bailing.IGNORED,
    mtp=BAILING,
    marker="moe_router_enable_expert_bias",
    shared_types=("bailing_moe",),
    tiny_config={**bailing.TINY_COMMON, "num_hidden_layers": 2},
    sizes=SIZES,
    assumed={"Ling-mini-2.0": dict.fromkeys(_OF_FLASH, "as in Ling-flash-2.0")},
)
