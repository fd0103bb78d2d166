"""`mimo2` (MiMo-V2: windows between full layers) and `bailingmoe2` (Ling and Ring 2.0)."""

from __future__ import annotations

from hyla.checkpoints.gguf.architectures import common, latent
from hyla.checkpoints.gguf.architectures.architecture import Architecture, Source
from hyla.checkpoints.gguf.names import Block, Names, Rows, Rule, renames
from hyla.errors import CheckpointError

IGNORED = dict.fromkeys(common.EXPERT_SIZES, "the tensors' shapes say it")


def mimo_config(source: Source) -> dict:
    """config.json of a `mimo2`: which layers have windows only the metadata says."""
    keys, total = source.keys, source.keys.integer("block_count")
    found = {"model_type": "mimo_v2_flash", **common.trunk_keys(source)}
    found["layernorm_epsilon"] = found.pop("rms_norm_eps")
    layers = range(found["num_hidden_layers"])
    pattern = keys.per_layer("attention.sliding_window_pattern", total)
    heads = keys.per_layer("attention.head_count_kv", total)
    found |= {**_mimo_heads(source, pattern, heads), **_mimo_rotation(source, keys.count("attention.key_length"))}
    count, width, _ = common.expert_sizes(source)
    return {
        **found,
        "hybrid_layer_pattern": pattern[: len(layers)],
        "sliding_window": keys.integer("attention.sliding_window"),
        "attention_value_scale": keys.number("attention.value_scale", 1.0),
        "moe_layer_freq": [int(source.in_block(number, "ffn_up_exps.weight")) for number in layers],
        **_mimo_dense(source, total),
        "n_routed_experts": count,
        "num_experts_per_tok": keys.integer("expert_used_count"),
        "moe_intermediate_size": width,
        **latent.router_keys(source, normalizes=True),
        "num_nextn_predict_layers": common.num_predicting(source, len(layers)),
    }


def _mimo_dense(source: Source, num_blocks: int) -> dict:
    """The width of the MLPs, which the layers of multi-token prediction have as well."""
    dense = common.dense_layers(source, num_blocks)
    return {"intermediate_size": common.shape_of(source, f"blk.{dense[0]}.ffn_up.weight")[0]} if dense else {}


def _mimo_heads(source: Source, pattern: list[int], kv_heads: list[int]) -> dict:
    """Heads of full layers and of those with a window."""
    kinds = {kind: {count for is_window, count in zip(pattern, kv_heads) if is_window == kind} for kind in (0, 1)}
    if any(len(found) > 1 for found in kinds.values()) or set(pattern) - {0, 1}:
        raise CheckpointError(
            f"{source.path}: attention.head_count_kv = {kv_heads} differs within one kind of layers ({pattern}); "
            "Hyla does not read that"
        )
    full, window = (next(iter(kinds[kind] or kinds[1 - kind])) for kind in (0, 1))
    has_sinks = [source.in_block(number, "attn_sinks.weight") for number in range(len(pattern))]
    return {
        "num_attention_heads": source.keys.count("attention.head_count"),
        "num_key_value_heads": full,
        "swa_num_key_value_heads": window,
        "head_dim": source.keys.count("attention.key_length"),
        "v_head_dim": source.keys.integer("attention.value_length"),
        "add_full_attention_sink_bias": any(has and not kind for has, kind in zip(has_sinks, pattern)),
        "add_swa_attention_sink_bias": any(has and kind for has, kind in zip(has_sinks, pattern)),
    }


def _mimo_rotation(source: Source, head_dim: int) -> dict:
    rope = {**common.rope(source), **common.partial_rotation(source, head_dim)}
    return {**rope, "swa_rope_theta": source.keys.number("rope.freq_base_swa", 10000.0)}


def mimo_names(source: Source, keys: dict) -> Names:
    """Separate projections; files of V2.5 have one for q, k and v, whose rows are those of the three."""
    heads, size, value = keys["num_attention_heads"], keys["head_dim"], keys["v_head_dim"]
    counts = (keys["num_key_value_heads"], keys["swa_num_key_value_heads"])
    base = {
        **common.ATTENTION,
        **common.MLP,
        **latent.SPARSE,
        "attn_sinks.weight": Rule("self_attn.attention_sink_bias"),
    }
    kinds = []
    for count in counts:
        parts = (heads * size, count * size, count * value)
        qkv = Rows(tuple(f"self_attn.{name}_proj.weight" for name in "qkv"), parts)
        kinds.append({**base, "attn_qkv.weight": qkv})
    blocks = [
        Block(f"model.layers.{number}.", {**common.NORMS, **kinds[kind]})
        for number, kind in enumerate(keys["hybrid_layer_pattern"])
    ]
    ends = renames("attn_norm input_layernorm", "ffn_norm pre_mlp_layernorm", "layer_output_norm final_layernorm")
    ends |= renames(*(f"nextn.{name} {name}" for name in ("eh_proj", "enorm", "hnorm")))
    for number in range(keys["num_nextn_predict_layers"]):
        blocks.append(Block(f"model.mtp.layers.{number}.", {**kinds[1], **ends}))
    return Names(common.TRUNK, tuple(blocks))


def bailing_config(source: Source) -> dict:
    """config.json of a `bailingmoe2`."""
    keys = {"model_type": "bailing_moe_v2", **common.trunk_keys(source), **common.grouped_query(source)}
    keys |= {**common.rope(source), **common.partial_rotation(source, keys["head_dim"])}
    count, width, shared = common.expert_sizes(source)
    layers = keys["num_hidden_layers"]
    dense = latent.dense_keys(source, layers)
    is_multiple = shared % width == 0
    return {
        "intermediate_size": width,
        **keys,
        **dense,
        **latent.router_keys(source, normalizes=True),
        "moe_router_enable_expert_bias": any(name.endswith(".exp_probs_b.bias") for name in source.tensors),
        "use_qk_norm": source.in_block(0, "attn_q_norm.weight"),
        "num_experts": count,
        "num_experts_per_tok": source.keys.integer("expert_used_count"),
        "moe_intermediate_size": width,
        "num_shared_experts": shared // width if is_multiple else 1,
        "moe_shared_expert_intermediate_size": width if is_multiple else shared,
        "num_nextn_predict_layers": common.num_predicting(source, layers),
    }


def bailing_names(source: Source, keys: dict) -> Names:
    """q, k and v stay in one projection."""
    rules = {
        **common.NORMS,
        **common.MLP,
        **latent.BAILING_SPARSE,
        **latent.BAILING_ENDS,
        **renames("attn_qkv attention.query_key_value", "attn_output attention.dense"),
        **renames("attn_q_norm attention.query_layernorm", "attn_k_norm attention.key_layernorm"),
    }
    count = keys["num_hidden_layers"] + keys["num_nextn_predict_layers"]
    return Names(latent.BAILING_TRUNK, tuple(Block(f"model.layers.{number}.", rules) for number in range(count)))


ARCHITECTURES = (
    Architecture("mimo2", mimo_config, mimo_names, IGNORED),
    Architecture("bailingmoe2", bailing_config, bailing_names, IGNORED),
)
