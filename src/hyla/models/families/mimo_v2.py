"""MiMo-V2.5-Pro: MiMo-V2-Flash, except for the fused qkv projection and other sizes.

The published qkv matrix is a row of tensor-parallel shards, each [Q | K | V] of its heads. Their number is not in
config.json: it is that of the full layers' key heads (MiMo-V2.5-Pro: 8, as 216 = 8 x 27 rows of scales show; FP8
blocks begin anew in every shard).
Transformers does not know this format; verified through the layout of MiMo-V2-Flash
(tests/parity/test_parity_mimo_v2.py). The window is read as there, and the MTP blocks are those.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from hyla.errors import ConfigError
from hyla.models.config import ModelConfig, SoftmaxConfig
from hyla.models.families import mimo_v2_flash as flash
from hyla.models.formats.family import Family, Suits
from hyla.models.formats.mtp_names import MIMO_V2
from hyla.models.formats.names import Rule, fuse_shards


class Keys(flash.Keys):
    """HANDLED keys of config.json."""

    attention_projection_layout: Literal["fused_qkv"] = "fused_qkv"


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    return {**flash.mimo_keys(config), "attention_projection_layout": "fused_qkv"}


@dataclass(frozen=True)
class ShardedFamily(Family[Keys]):
    """A family whose qkv matrices are cut into as many shards as the full layers have key heads."""

    def rules(self, config: ModelConfig, ours: Iterable[str], suits: Suits | None = None) -> list[Rule]:
        counts = [mixer.num_kv_heads for mixer in config.mixers if isinstance(mixer, SoftmaxConfig)]
        shards = min(counts, default=1)
        if any(count % shards for count in counts):
            raise ConfigError(f"{self.name}: key heads {sorted(set(counts))} cannot be cut into {shards} shards")
        qkv = fuse_shards("self_attn.qkv_proj.weight", ("q.weight", "k.weight", "v.weight"), shards)
        names = {**self.names, "softmax": (qkv, *self.names["softmax"])}
        return Family.rules(replace(self, names=names), config, ours, suits)


# fmt: off
FULL_LAYERS = (0, 7, 15, 23, 31, 39, 47, 55, 62, 69)
SIZES = {"MiMo-V2.5-Pro": {
    "vocab_size": 152576, "hidden_size": 6144, "intermediate_size": 16384, "num_hidden_layers": 70,
    "max_position_embeddings": 1048576, "num_attention_heads": 128, "num_key_value_heads": 8,
    "swa_num_key_value_heads": 8, "hybrid_layer_pattern": [int(layer not in FULL_LAYERS) for layer in range(70)],
    "n_routed_experts": 384, "rope_theta": 1e7, "partial_rotary_factor": 0.334, "sliding_window": 128,
    "sliding_window_size": 128, "attention_value_scale": 0.612, "layernorm_epsilon": 1e-5,
}}
# fmt: on

FAMILY = ShardedFamily(
    name="mimo_v2",
    schema=Keys,
    from_published=lambda keys: flash.mimo_config(keys, "mimo_v2"),
    to_published=to_published,
    architecture="MiMoV2ForCausalLM",
    names={"softmax": flash.ATTENTION_NAMES, **flash.MLP_NAMES},
    ignored=flash.IGNORED,
    mtp=MIMO_V2,
    tiny_config={**flash.TINY, "num_key_value_heads": 2, "swa_num_key_value_heads": 6},
    sizes=SIZES,
)
