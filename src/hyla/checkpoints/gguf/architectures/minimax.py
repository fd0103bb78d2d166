"""MiniMax: `minimax-01` (Text-01 and M1: lightning attention between full layers) and `minimax-m2`."""

from __future__ import annotations

from hyla.checkpoints.gguf.architectures import common
from hyla.checkpoints.gguf.architectures.architecture import Architecture, Source
from hyla.checkpoints.gguf.names import Block, Names, Rule, renames

IGNORED = dict.fromkeys(common.EXPERT_SIZES, "the tensors' shapes say it")
MOE = {
    **common.experts("w1", "w3", "w2", within="block_sparse_moe.experts."),
    **renames("ffn_gate_inp block_sparse_moe.gate"),
    "exp_probs_b.bias": Rule("block_sparse_moe.e_score_correction_bias"),
}
LIGHTNING = renames(
    "attn_qkv self_attn.qkv_proj",
    "attn_gate self_attn.output_gate",
    "attn_norm_2 self_attn.norm",
    "attn_output self_attn.out_proj",
)
BLOCKS = ("linear_attention", "full_attention", "mlp")


def _config(source: Source, model_type: str, score: str) -> dict:
    keys = {"model_type": model_type, **common.trunk_keys(source), **common.grouped_query(source)}
    count, width, _ = common.expert_sizes(source)
    common.must_be(source, common.scores(source), score, "expert_gating_func")
    common.must_be(source, source.keys.flag("expert_weights_norm", True), True, "expert_weights_norm")
    common.must_be(source, source.keys.number("expert_weights_scale", 1.0), 1.0, "expert_weights_scale")
    return {
        **keys,
        **common.rope(source),
        "rotary_dim": source.keys.integer("rope.dimension_count", keys["head_dim"]),
        "num_local_experts": count,
        "num_experts_per_tok": source.keys.integer("expert_used_count"),
        "intermediate_size": width,
    }


def hybrid_config(source: Source) -> dict:
    """config.json of a `minimax-01`: one factor for all residuals, kinds of layers by their tensors."""
    keys = _config(source, "minimax_text_01", "softmax")
    alpha = source.keys.number("residual_scale", 1.0)
    layers = range(keys["num_hidden_layers"])
    keys["attn_type_list"] = [int(source.in_block(number, "attn_q.weight")) for number in layers]
    factors = {f"layernorm_{name}_alpha": alpha for name in BLOCKS}
    return {**keys, **factors, **{f"layernorm_{name}_beta": 1.0 for name in BLOCKS}}


def m2_config(source: Source) -> dict:
    """config.json of a `minimax-m2`."""
    return _config(source, "minimax_m2", "sigmoid")


def hybrid_names(source: Source, keys: dict) -> Names:
    """Lightning or full attention."""
    rest = {**common.NORMS, **MOE}
    kinds = ({**LIGHTNING, **rest}, {**common.ATTENTION, **rest})
    blocks = tuple(Block(f"model.layers.{n}.", kinds[kind]) for n, kind in enumerate(keys["attn_type_list"]))
    return Names(common.TRUNK, blocks)


def m2_names(source: Source, keys: dict) -> Names:
    """Norms of q and k over all heads."""
    rules = {**common.NORMS, **common.ATTENTION, **common.QK_NORMS, **MOE}
    return Names(
        common.TRUNK, tuple(Block(f"model.layers.{number}.", rules) for number in range(keys["num_hidden_layers"]))
    )


ARCHITECTURES = (
    Architecture("minimax-01", hybrid_config, hybrid_names, IGNORED),
    Architecture("minimax-m2", m2_config, m2_names, IGNORED),
)
