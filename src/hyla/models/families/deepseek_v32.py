"""DeepSeek-V3.2 and V3.2-Exp: DeepSeek-V3 whose attention reads the keys that a lightning indexer selects.

The trunk of DeepSeek-V3, except the mixer (arXiv 2512.02556). The indexer rotates by halves while the attention rotates
neighbours; its weights and its norm stay fp32. The published code quantises index queries and keys to FP8 after a
Hadamard rotation; here they are in the model's dtype, as in transformers. Ties of index scores, which exact zeros make
likely with few heads, go to the lower position here and anywhere there. Verified against transformers 5.23 on random
weights with many index heads (tests/parity/test_parity_deepseek.py): largest difference of fp32 logits 1.4e-6 of the
largest.
"""

from __future__ import annotations

from typing import Literal

from hyla.models.config import ModelConfig, SparseMLAConfig
from hyla.models.families import deepseek_v3
from hyla.models.families.deepseek_v3 import IGNORED, SIZE, TINY
from hyla.models.formats import published as hf
from hyla.models.formats.family import Family
from hyla.models.formats.modules import MLA, mla_names
from hyla.models.formats.mtp_names import DEEPSEEK
from hyla.models.formats.names import rename, weights

INDEXER = {"index_n_heads": "num_index_heads", "index_head_dim": "index_dim", "index_topk": "num_selected"}


class Keys(deepseek_v3.Keys):
    """HANDLED keys of config.json."""

    index_n_heads: hf.Count = 64
    index_head_dim: hf.Count = 128
    index_topk: hf.Count = 2048
    layer_types: list[Literal["indexed_attention"]] | None = None


def from_published(keys: Keys) -> ModelConfig:
    """config.json -> ModelConfig."""
    mixer = hf.build(SparseMLAConfig, keys, MLA | INDEXER, **keys.attention("deepseek_v32"))
    return keys.model("deepseek_v32", mixer)


def to_published(config: ModelConfig) -> dict:
    """ModelConfig -> config.json."""
    return deepseek_v3.to_published(config) | hf.publish(hf.first(config, SparseMLAConfig), INDEXER)


FAMILY = Family(
    name="deepseek_v32",
    schema=Keys,
    from_published=from_published,
    to_published=to_published,
    architecture="DeepseekV32ForCausalLM",
    names={
        **deepseek_v3.NAMES,
        "sparse_mla": (
            *mla_names("self_attn."),
            *weights("self_attn.indexer.", "wq_b q_b", "wk k", "k_norm k_norm", ours="indexer."),
            rename("self_attn.indexer.k_norm.bias", "indexer.k_norm.bias"),
            rename("self_attn.indexer.weights_proj.weight", "indexer.weights"),
        ),
    },
    ignored=IGNORED,
    mtp=DEEPSEEK,
    # More keys than a page, so that a tiny model's selection spans blocks.
    tiny_config={**TINY, "index_n_heads": 12, "index_head_dim": 14, "index_topk": 70},
    sizes={"DeepSeek-V3.2": SIZE, "DeepSeek-V3.2-Exp": SIZE},
)
