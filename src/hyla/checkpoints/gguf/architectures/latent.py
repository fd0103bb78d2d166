"""Latent attention and what stands between: `deepseek2`, `deepseek32`, `kimi-linear` and `bailingmoe3`.

The writer cuts kv_b_proj into k_b, transposed within each head, and v_b; older files keep it whole. Kinds of layers are
read from the tensors.
"""

from __future__ import annotations

from hyla.checkpoints.gguf.architectures import common
from hyla.checkpoints.gguf.architectures.architecture import Architecture, Source
from hyla.checkpoints.gguf.inverses import join_latent, log_of_negative, log_of_positive
from hyla.checkpoints.gguf.names import Block, Names, Rule, renames

IGNORED = {
    **dict.fromkeys(common.EXPERT_SIZES, "the tensors' shapes say it"),
    **dict.fromkeys(("attention.key_length", "attention.value_length"), "sizes of the latent, beside those of heads"),
    "attention.head_count_kv": "one latent for all heads; kinds of layers are read from the tensors",
}


def mla(within: str, out: str = "o_proj") -> dict[str, Rule]:
    """An MLA layer below `within` (e.g. "self_attn.")."""
    kv = f"{within}kv_b_proj.weight"
    return {
        **renames(
            f"attn_q {within}q_proj",
            f"attn_q_a {within}q_a_proj",
            f"attn_q_a_norm {within}q_a_layernorm",
            f"attn_q_b {within}q_b_proj",
            f"attn_kv_a_mqa {within}kv_a_proj_with_mqa",
            f"attn_kv_a_norm {within}kv_a_layernorm",
            f"attn_output {within}{out}",
        ),
        "attn_k_b.weight": Rule(kv, join_latent, ("attn_v_b.weight",), lambda k, v: (k[0] * (k[2] + v[1]), k[1])),
        "attn_kv_b.weight": Rule(kv),
    }


def mla_keys(source: Source) -> dict:
    """Sizes of MLA: newer files say those of a head beside those of the latent, older ones only the former."""
    keys = source.keys
    rotated = keys.integer("rope.dimension_count")
    key = keys.maybe_integer("attention.key_length_mla") or keys.integer("attention.key_length")
    value = keys.maybe_integer("attention.value_length_mla") or keys.integer("attention.value_length")
    found = {
        "num_attention_heads": keys.integer("attention.head_count"),
        "kv_lora_rank": keys.integer("attention.kv_lora_rank"),
        "qk_nope_head_dim": key - rotated,
        "qk_rope_head_dim": rotated,
        "v_head_dim": value,
    }
    rank = keys.maybe_integer("attention.q_lora_rank")
    return found if rank is None else {**found, "q_lora_rank": rank}


def _is_latent(source: Source, number: int) -> bool:
    return source.in_block(number, "attn_kv_a_mqa.weight")


def dense_keys(source: Source, num_blocks: int) -> dict:
    """How many leading layers have an MLP, and its width."""
    count = common.leading_dense(source, num_blocks)
    width = {"intermediate_size": common.shape_of(source, "blk.0.ffn_up.weight")[0]} if count else {}
    return {"first_k_dense_replace": count, **width}


def router_keys(source: Source, *, normalizes: bool, groups: int = 1) -> dict:
    """How experts are chosen, as DeepSeek's config.json has it. normalizes, groups: where the file does not say."""
    common.must_be(source, common.scores(source), "sigmoid", "expert_gating_func")
    return {
        "norm_topk_prob": source.keys.flag("expert_weights_norm", normalizes),
        "routed_scaling_factor": source.keys.number("expert_weights_scale", 1.0),
        "n_group": source.keys.integer("expert_group_count", groups),
        "topk_group": source.keys.integer("expert_group_used_count", 1),
    }


def _log_multiplier(source: Source, keys: dict) -> None:
    """mscale_all_dim, of which the file has a tenth; what config.json calls mscale is taken to be the same."""
    found = source.keys.number("rope.scaling.yarn_log_multiplier", 0.0)
    if "rope_scaling" in keys and keys["rope_scaling"]["rope_type"] == "yarn" and found:
        both = float(f"{found * 10:.7g}")
        keys["rope_scaling"] |= {"mscale": both, "mscale_all_dim": both}


def deepseek_config(source: Source, model_type: str = "deepseek_v3") -> dict:
    """config.json of a `deepseek2` that routes as DeepSeek-V3 does."""
    keys = {"model_type": model_type, **common.trunk_keys(source), **mla_keys(source), **common.rope(source)}
    _log_multiplier(source, keys)
    count, width, shared = common.expert_sizes(source)
    keys |= {**dense_keys(source, keys["num_hidden_layers"]), **router_keys(source, normalizes=False)}
    return keys | {
        "n_routed_experts": count,
        "num_experts_per_tok": source.keys.integer("expert_used_count"),
        "moe_intermediate_size": width,
        "n_shared_experts": shared // width,
        "num_nextn_predict_layers": common.num_predicting(source, keys["num_hidden_layers"]),
    }


def sparse_config(source: Source) -> dict:
    """config.json of a `deepseek32`."""
    indexer = {
        "index_n_heads": source.keys.integer("attention.indexer.head_count"),
        "index_head_dim": source.keys.integer("attention.indexer.key_length"),
        "index_topk": source.keys.integer("attention.indexer.top_k"),
    }
    return {**deepseek_config(source, "deepseek_v32"), **indexer}


SPARSE = {
    **common.experts(within="mlp.experts."),
    **renames("ffn_gate_inp mlp.gate"),
    **renames(*(f"ffn_{name}_shexp mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down"))),
    "exp_probs_b.bias": Rule("mlp.gate.e_score_correction_bias"),
}
INDEXER = {
    **renames(
        "indexer.attn_q_b self_attn.indexer.wq_b",
        "indexer.attn_k self_attn.indexer.wk",
        "indexer.k_norm self_attn.indexer.k_norm",
        "indexer.proj self_attn.indexer.weights_proj",
    ),
    "indexer.k_norm.bias": Rule("self_attn.indexer.k_norm.bias"),
}
OWN_ENDS = renames(
    "nextn.eh_proj eh_proj",
    "nextn.enorm enorm",
    "nextn.hnorm hnorm",
    "nextn.embed_tokens embed_tokens",
    "nextn.shared_head_head shared_head.head",
    "nextn.shared_head_norm shared_head.norm",
)


def deepseek_names(source: Source, keys: dict) -> Names:
    """The modules of multi-token prediction are further layers."""
    rules = {**common.NORMS, **mla("self_attn."), **INDEXER, **common.MLP, **SPARSE, **OWN_ENDS}
    count = keys["num_hidden_layers"] + keys["num_nextn_predict_layers"]
    return Names(common.TRUNK, tuple(Block(f"model.layers.{number}.", rules) for number in range(count)))


def _kda(within: str, out: str, decay: Rule) -> dict[str, Rule]:
    """What a KDA layer has below `within` in both families."""
    convolutions = {
        f"ssm_conv1d_{name}.weight": Rule(f"{within}{name}_conv1d.weight", shape=common.conv) for name in "qkv"
    }
    return {
        **renames(*(f"attn_{name} {within}{name}_proj" for name in "qkv"), f"attn_output {within}{out}"),
        **renames(f"ssm_beta {within}b_proj", f"ssm_norm {within}o_norm"),
        **convolutions,
        "ssm_a": decay,
        "ssm_dt.bias": Rule(f"{within}dt_bias", shape=common.flat),
    }


def expert_keys(source: Source, *, groups: int = 1) -> dict:
    """Experts and router in Kimi's and Ling-3's spelling; nothing stored says that they normalise. groups: where the
    file does not count them."""
    count, width, shared = common.expert_sizes(source)
    router = router_keys(source, normalizes=True, groups=groups)
    return {
        "num_experts": count,
        "num_experts_per_token": source.keys.integer("expert_used_count"),
        "num_shared_experts": shared // width,
        "moe_intermediate_size": width,
        "moe_renormalize": router["norm_topk_prob"],
        "routed_scaling_factor": router["routed_scaling_factor"],
        "num_expert_group": router["n_group"],
        "topk_group": router["topk_group"],
    }


def kimi_config(source: Source) -> dict:
    """config.json of a `kimi-linear`. It has no position code."""
    keys = {"model_type": "kimi_linear", **common.trunk_keys(source), **mla_keys(source)}
    keys["model_max_length"] = keys.pop("max_position_embeddings")
    source.keys.pass_over("rope.freq_base")
    layers = range(keys["num_hidden_layers"])
    full = [number + 1 for number in layers if _is_latent(source, number)]
    linear = [number + 1 for number in layers if not _is_latent(source, number)]
    keys["linear_attn_config"] = {
        "num_heads": common.flat(common.shape_of(source, f"blk.{linear[0] - 1}.ssm_a"))[0] if linear else 1,
        "head_dim": source.keys.integer("kda.head_dim"),
        "short_conv_kernel_size": source.keys.integer("ssm.conv_kernel"),
        "kda_layers": linear,
        "full_attn_layers": full,
    }
    return {
        **keys,
        **dense_keys(source, len(layers)),
        **expert_keys(source),
    }


KIMI_SPARSE = {
    **common.experts("w1", "w3", "w2", within="block_sparse_moe.experts."),
    **renames("ffn_gate_inp block_sparse_moe.gate"),
    **renames(*(f"ffn_{name}_shexp block_sparse_moe.shared_experts.{name}_proj" for name in ("gate", "up", "down"))),
    "exp_probs_b.bias": Rule("block_sparse_moe.gate.e_score_correction_bias"),
}


def kimi_names(source: Source, keys: dict) -> Names:
    """KDA or MLA, MLP or experts: what a block has."""
    decay = Rule("self_attn.A_log", log_of_negative, shape=lambda shape: (1, 1, *common.flat(shape), 1))
    ranks = renames(*(f"ssm_{name} self_attn.{name}_proj" for name in ("f_a", "f_b", "g_a", "g_b")))
    linear = {**_kda("self_attn.", "o_proj", decay), **ranks}
    channel = {**common.NORMS, **common.MLP, **KIMI_SPARSE}
    return _mixed(source, keys, common.TRUNK, {**linear, **channel}, {**mla("self_attn."), **channel})


def _mixed(source: Source, keys: dict, trunk: dict, linear: dict, full: dict, predicting: int = 0) -> Names:
    """Blocks by their kind, those of multi-token prediction last."""
    count = keys["num_hidden_layers"] + predicting
    rules = [full if _is_latent(source, number) else linear for number in range(count)]
    return Names(trunk, tuple(Block(f"model.layers.{number}.", kind) for number, kind in enumerate(rules)))


BAILING_TRUNK = renames("token_embd model.word_embeddings", "output_norm model.norm", "output lm_head")
BAILING_SPARSE = {
    **{name: rule for name, rule in SPARSE.items() if name != "exp_probs_b.bias"},
    "exp_probs_b.bias": Rule("mlp.gate.expert_bias"),
}
BAILING_ENDS = renames(
    "nextn.eh_proj eh_proj", "nextn.enorm enorm", "nextn.hnorm hnorm", "layer_output_norm final_layernorm"
)


def bailing_config(source: Source) -> dict:
    """config.json of a `bailingmoe3` (Ling-3.0). Raises CheckpointError for one that clamps its experts."""
    keys = {"model_type": "bailing_hybrid", **common.trunk_keys(source), **mla_keys(source), **common.rope(source)}
    keys["model_max_length"] = keys.pop("max_position_embeddings")
    for name in ("swiglu_clamp_exp", "swiglu_clamp_shexp"):
        limits = source.keys.array(name)
        common.must_be(source, bool(limits is not None and limits.any()), False, name)
    layers = range(keys["num_hidden_layers"])
    # The writer looks for the number of groups under another name than the published one: 8 in Ling-3.0.
    groups = 8 if "expert_group_used_count" in source.keys else 1
    return {
        **keys,
        **dense_keys(source, len(layers)),
        "layer_types": ["full_attention" if _is_latent(source, n) else "linear_attention" for n in layers],
        "head_dim": source.keys.integer("kda.head_dim"),
        "short_conv_kernel_size": source.keys.integer("ssm.conv_kernel"),
        "kda_safe_gate": source.keys.flag("kda.safe_gate", True),
        "kda_lower_bound": source.keys.number("kda.gate_lower_bound", -5.0),
        **expert_keys(source, groups=groups),
        "num_nextn_predict_layers": common.num_predicting(source, len(layers)),
    }


def bailing_names(source: Source, keys: dict) -> Names:
    """Gates of full rank, and one for each head of the MLA layers."""
    decay = Rule("attention.A_log", log_of_positive, shape=common.flat)
    gates = renames("ssm_f_a attention.f_proj", "ssm_g_a attention.g_proj")
    channel = {**common.NORMS, **common.MLP, **BAILING_SPARSE, **BAILING_ENDS}
    linear = {**_kda("attention.", "dense", decay), **gates, **channel}
    full = {**mla("attention.", "dense"), **renames("attn_gate attention.g_proj"), **channel}
    return _mixed(source, keys, BAILING_TRUNK, linear, full, keys["num_nextn_predict_layers"])


ARCHITECTURES = (
    Architecture("deepseek2", deepseek_config, deepseek_names, IGNORED),
    Architecture("deepseek32", sparse_config, deepseek_names, IGNORED),
    Architecture("kimi-linear", kimi_config, kimi_names, IGNORED),
    Architecture("bailingmoe3", bailing_config, bailing_names, IGNORED),
)
