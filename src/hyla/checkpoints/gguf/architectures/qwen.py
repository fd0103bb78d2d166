"""Qwen's mixtures and hybrids: `qwen3moe`, `qwen3next`, `qwen35` and `qwen35moe`.

The writer adds one to every norm but that of the linear layers, stores -exp(A_log), and in `qwen35` and `qwen35moe`
orders value heads [ratio][key head] instead of [key head][ratio]; nothing in a file says so.
"""

from __future__ import annotations

from functools import partial

from hyla.checkpoints.gguf.architectures import common
from hyla.checkpoints.gguf.architectures.architecture import Architecture, Source
from hyla.checkpoints.gguf.inverses import interleave_heads, log_of_negative, minus_one, untile, untile_after
from hyla.checkpoints.gguf.names import Block, Names, Rule, renames

IGNORED = {
    **dict.fromkeys(common.EXPERT_SIZES, "the tensors' shapes say it"),
    "attention.recurrent_layers": "kinds of layers are read from the tensors",
    "full_attention_interval": "kinds of layers are read from the tensors",
    "rope.dimension_sections": "frequencies per image axis: no effect on text",
    "rope.mrope_interleaved": "frequencies per image axis: no effect on text",
}
BEFORE = {
    "attn_norm.weight": Rule("input_layernorm.weight", minus_one),
    "post_attention_norm.weight": Rule("post_attention_layernorm.weight", minus_one),
}
GATED_ATTENTION = {
    **common.ATTENTION,
    "attn_q_norm.weight": Rule("self_attn.q_norm.weight", minus_one),
    "attn_k_norm.weight": Rule("self_attn.k_norm.weight", minus_one),
}
PREDICTING = {
    "nextn.eh_proj.weight": Rule("fc.weight"),
    "nextn.enorm.weight": Rule("pre_fc_norm_embedding.weight", minus_one),
    "nextn.hnorm.weight": Rule("pre_fc_norm_hidden.weight", minus_one),
    "nextn.shared_head_norm.weight": Rule("norm.weight", minus_one),
}
SPARSE = {
    **common.experts(within="mlp.experts."),
    **renames("ffn_gate_inp mlp.gate"),
    **renames(*(f"ffn_{name}_shexp mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down"))),
    "ffn_gate_inp_shexp.weight": Rule("mlp.shared_expert_gate.weight", shape=lambda shape: (1, shape[-1])),
}


def _moe(source: Source) -> dict:
    """Keys of routed and shared experts."""
    count, width, shared = common.expert_sizes(source)
    common.must_be(source, common.scores(source), "softmax", "expert_gating_func")
    common.must_be(source, source.keys.number("expert_weights_scale", 1.0), 1.0, "expert_weights_scale")
    keys = {
        "num_experts": count,
        "num_experts_per_tok": source.keys.integer("expert_used_count"),
        "moe_intermediate_size": width,
        "norm_topk_prob": source.keys.flag("expert_weights_norm", True),
    }
    return {**keys, "shared_expert_intermediate_size": shared} if shared else keys


def moe_config(source: Source) -> dict:
    """config.json of a `qwen3moe`."""
    keys = {"model_type": "qwen3_moe", **common.trunk_keys(source), **common.grouped_query(source)}
    keys |= {**common.rope(source), **_moe(source)}
    common.whole_rotation(source, keys["head_dim"])
    dense = common.dense_layers(source, keys["num_hidden_layers"])
    keys["mlp_only_layers"] = dense
    if dense:
        keys["intermediate_size"] = common.shape_of(source, f"blk.{dense[0]}.ffn_up.weight")[0]
    return keys


def moe_names(source: Source, keys: dict) -> Names:
    """MLPs and experts: whichever a block has."""
    rules = {**common.NORMS, **common.ATTENTION, **common.QK_NORMS, **common.MLP, **SPARSE}
    blocks = tuple(Block(f"model.layers.{number}.", rules) for number in range(keys["num_hidden_layers"]))
    return Names(common.TRUNK, blocks)


def _delta_sizes(source: Source) -> dict:
    """Sizes of the gated delta rule."""
    keys = source.keys
    value_heads = keys.count("ssm.time_step_rank")
    return {
        "linear_num_key_heads": keys.count("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": keys.integer("ssm.state_size"),
        "linear_value_head_dim": keys.integer("ssm.inner_size") // value_heads,
        "linear_conv_kernel_dim": keys.integer("ssm.conv_kernel"),
    }


def _hybrid_config(source: Source, model_type: str) -> dict:
    keys = {"model_type": model_type, **common.trunk_keys(source), **_grouped_query(source), **_delta_sizes(source)}
    keys |= {**common.rope(source), **common.partial_rotation(source, keys["head_dim"])}
    kinds = {True: "linear_attention", False: "full_attention"}
    keys["layer_types"] = [kinds[source.in_block(number, "ssm_a")] for number in range(keys["num_hidden_layers"])]
    return keys


def _grouped_query(source: Source) -> dict:
    """Heads of the full layers; a list has zeros for the others."""
    counts = source.keys.per_layer("attention.head_count_kv", source.keys.integer("block_count"))
    return {**common.grouped_query(source, max(counts))}


def next_config(source: Source) -> dict:
    """config.json of a `qwen3next`."""
    keys = {**_hybrid_config(source, "qwen3_next"), **_moe(source)}
    keys["mlp_only_layers"] = dense = common.dense_layers(source, keys["num_hidden_layers"])
    if dense:
        keys["intermediate_size"] = common.shape_of(source, f"blk.{dense[0]}.ffn_up.weight")[0]
    return {**keys, "num_nextn_predict_layers": common.num_predicting(source, keys["num_hidden_layers"])}


def dense_config(source: Source) -> dict:
    """config.json of a `qwen35`."""
    keys = _hybrid_config(source, "qwen3_5_text")
    keys["intermediate_size"] = common.shape_of(source, "blk.0.ffn_up.weight")[0]
    return {**keys, "mtp_num_hidden_layers": common.num_predicting(source, keys["num_hidden_layers"])}


def sparse_config(source: Source) -> dict:
    """config.json of a `qwen35moe`."""
    keys = {**_hybrid_config(source, "qwen3_5_moe_text"), **_moe(source)}
    return {**keys, "mtp_num_hidden_layers": common.num_predicting(source, keys["num_hidden_layers"])}


def _delta(keys: dict, *, tiled: bool) -> dict[str, Rule]:
    """What the linear layers of all three have."""
    num, ratio, head = _heads(keys)
    turn = partial(untile, axis=0, num_key_heads=num, ratio=ratio, head_dim=1) if tiled else None
    convolution = _value_rows(keys) if tiled else None
    return {
        "ssm_a": Rule("linear_attn.A_log", _both(turn, log_of_negative), shape=common.flat),
        "ssm_dt.bias": Rule("linear_attn.dt_bias", turn, shape=common.flat),
        "ssm_dt": Rule("linear_attn.dt_bias", turn, shape=common.flat),
        "ssm_conv1d.weight": Rule("linear_attn.conv1d.weight", convolution, shape=common.conv),
        "ssm_norm.weight": Rule("linear_attn.norm.weight"),
        "ssm_out.weight": Rule(
            "linear_attn.out_proj.weight",
            partial(untile, axis=1, num_key_heads=num, ratio=ratio, head_dim=head) if tiled else None,
        ),
    }


def _both(first, second):
    """One after the other."""
    return second if first is None else lambda values: second(first(values.reshape(-1)))


def _heads(keys: dict) -> tuple[int, int, int]:
    """(key heads, value heads for each, a value head's size)."""
    num = keys["linear_num_key_heads"]
    return num, keys["linear_num_value_heads"] // num, keys["linear_value_head_dim"]


def _value_rows(keys: dict):
    """Turn the rows of v in [q, k, v]."""
    num, ratio, head = _heads(keys)
    first = 2 * num * keys["linear_key_head_dim"]
    return partial(untile_after, first=first, num_key_heads=num, ratio=ratio, head_dim=head)


def _tiled_delta(keys: dict) -> dict[str, Rule]:
    num, ratio, head = _heads(keys)
    rows = partial(untile, axis=0, num_key_heads=num, ratio=ratio)
    return {
        **_delta(keys, tiled=True),
        "attn_qkv.weight": Rule("linear_attn.in_proj_qkv.weight", _value_rows(keys)),
        "attn_gate.weight": Rule("linear_attn.in_proj_z.weight", partial(rows, head_dim=head)),
        "ssm_alpha.weight": Rule("linear_attn.in_proj_a.weight", partial(rows, head_dim=1)),
        "ssm_beta.weight": Rule("linear_attn.in_proj_b.weight", partial(rows, head_dim=1)),
    }


def _fused_delta(keys: dict) -> dict[str, Rule]:
    num, ratio, head = _heads(keys)
    sizes = (keys["linear_key_head_dim"], keys["linear_key_head_dim"], ratio * head)
    fused = "linear_attn.in_proj_qkvz.weight"
    return {
        **_delta(keys, tiled=False),
        "attn_qkv.weight": Rule(
            fused,
            partial(interleave_heads, num_heads=num, sizes=sizes),
            ("attn_gate.weight",),
            lambda qkv, z: (qkv[0] + z[0], qkv[1]),
        ),
        "ssm_in.weight": Rule(fused),
        "ssm_ba.weight": Rule("linear_attn.in_proj_ba.weight"),
    }


def _hybrid_names(source: Source, keys: dict, delta: dict[str, Rule], channel: dict[str, Rule]) -> Names:
    """The trunk's blocks, then those of multi-token prediction."""
    blocks = []
    for number, kind in enumerate(keys["layer_types"]):
        mixer = delta if kind == "linear_attention" else GATED_ATTENTION
        blocks.append(Block(f"model.layers.{number}.", {**BEFORE, **mixer, **channel}))
    predicting = keys.get("num_nextn_predict_layers", keys.get("mtp_num_hidden_layers", 0))
    within = {**BEFORE, **GATED_ATTENTION, **channel}
    for number in range(predicting):
        layer = {name: rule.below(f"layers.{number}.") for name, rule in within.items()}
        blocks.append(Block("mtp.", {**layer, **PREDICTING}))
    trunk = {**common.TRUNK, "output_norm.weight": Rule("model.norm.weight", minus_one)}
    return Names(trunk, tuple(blocks))


def next_names(source: Source, keys: dict) -> Names:
    """Projections of q, k, v and z in one, by key heads."""
    return _hybrid_names(source, keys, _fused_delta(keys), {**common.MLP, **SPARSE})


def dense_names(source: Source, keys: dict) -> Names:
    """Value heads turned back."""
    return _hybrid_names(source, keys, _tiled_delta(keys), common.MLP)


def sparse_names(source: Source, keys: dict) -> Names:
    """Value heads turned back; experts one by one."""
    return _hybrid_names(source, keys, _tiled_delta(keys), SPARSE)


ARCHITECTURES = (
    Architecture("qwen3moe", moe_config, moe_names, IGNORED),
    Architecture("qwen3next", next_config, next_names, IGNORED),
    Architecture("qwen35", dense_config, dense_names, IGNORED),
    Architecture("qwen35moe", sparse_config, sparse_names, IGNORED),
)
