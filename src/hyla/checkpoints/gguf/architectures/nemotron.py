"""Nemotron-H, dense (`nemotron_h`) and with experts (`nemotron_h_moe`): one module in each block.

Rows of q and k are stored in pairs, though the model has no position code. What a block is, its tensors say: published
files have metadata that calls every block Mamba.
"""

from __future__ import annotations

from functools import partial

from hyla.checkpoints.gguf.architectures import common
from hyla.checkpoints.gguf.architectures.architecture import Architecture, Source
from hyla.checkpoints.gguf.inverses import log_of_negative, unpermute
from hyla.checkpoints.gguf.names import Block, Experts, Names, Rule, renames
from hyla.errors import CheckpointError

IGNORED = {
    **dict.fromkeys(common.EXPERT_SIZES, "the tensors' shapes say it"),
    "attention.head_count_kv": "which layers are attention, and their heads, are read from the tensors",
    "rope.dimension_count": "the model has no position code",
    "rope.freq_base": "the model has no position code",
    "moe_latent_size": "the tensors' shapes say it",
}
_OF_EXPERTS = ("count", "used_count", "group_count", "group_used_count", "weights_norm", "weights_scale")
LETTERS = {"ssm_in.weight": "M", "attn_q.weight": "*", "ffn_up_exps.weight": "E", "ffn_up.weight": "-"}
"""The letter of a block, by a tensor that only its kind has."""


def _letter(source: Source, number: int) -> str:
    found = [letter for name, letter in LETTERS.items() if source.in_block(number, name)]
    if len(found) != 1:
        raise CheckpointError(f"{source.path}: block {number} is of kinds {found}, and one is read; convert it again")
    return found[0]


def config(source: Source) -> dict:
    """config.json, in the hub's spelling."""
    keys = {"model_type": "nemotron_h", **_trunk_keys(source)}
    letters = "".join(_letter(source, number) for number in range(keys["num_hidden_layers"]))
    keys["hybrid_override_pattern"] = letters
    predicting = common.num_predicting(source, len(letters))
    if predicting:
        keys |= {"num_nextn_predict_layers": predicting, "mtp_hybrid_override_pattern": "*E"}
    if "M" in letters:
        keys |= _mamba_keys(source)
    if "*" in letters or predicting:
        keys |= _attention_keys(source, (letters + "*").index("*"))
    if "-" in letters:
        keys["intermediate_size"] = common.shape_of(source, f"blk.{letters.index('-')}.ffn_up.weight")[0]
    if "E" in letters:
        return keys | _moe_keys(source)
    source.keys.pass_over(*(f"expert_{name}" for name in _OF_EXPERTS))  # writers mark dense models as if they had some
    return keys


def _trunk_keys(source: Source) -> dict:
    """The epsilon stands under one name or both."""
    names = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
    found = {source.keys.number(name) for name in names if name in source.keys}
    if len(found) != 1:
        raise CheckpointError(f"{source.path}: {' and '.join(names)} are {sorted(found)}; one number is read")
    keys = common.trunk_keys(source, found.pop())
    keys["layer_norm_epsilon"] = keys.pop("rms_norm_eps")
    return keys


def _mamba_keys(source: Source) -> dict:
    keys = source.keys
    heads = keys.count("ssm.time_step_rank")
    return {
        "mamba_num_heads": heads,
        "mamba_head_dim": keys.integer("ssm.inner_size") // heads,
        "n_groups": keys.integer("ssm.group_count"),
        "ssm_state_size": keys.integer("ssm.state_size"),
        "conv_kernel": keys.integer("ssm.conv_kernel"),
    }


def _attention_keys(source: Source, number: int) -> dict:
    """Heads, from the rows of one block's projections."""
    head_dim = source.keys.count("attention.key_length")
    common.must_be(source, source.keys.integer("attention.value_length", head_dim), head_dim, "attention.value_length")
    rows = {name: common.shape_of(source, f"blk.{number}.attn_{name}.weight")[0] for name in "qk"}
    common.must_be(source, source.keys.integer("attention.head_count"), rows["q"] // head_dim, "attention.head_count")
    return {
        "num_attention_heads": rows["q"] // head_dim,
        "num_key_value_heads": rows["k"] // head_dim,
        "head_dim": head_dim,
    }


def _moe_keys(source: Source) -> dict:
    count, width, shared = common.expert_sizes(source)
    common.must_be(source, common.scores(source), "sigmoid", "expert_gating_func")
    latent = [info.shape[0] for key, info in source.tensors.items() if key.endswith(".ffn_latent_down.weight")]
    return {
        "n_routed_experts": count,
        "num_experts_per_tok": source.keys.integer("expert_used_count"),
        "moe_intermediate_size": width,
        "moe_shared_expert_intermediate_size": shared,
        "norm_topk_prob": source.keys.flag("expert_weights_norm", True),
        "routed_scaling_factor": source.keys.number("expert_weights_scale", 1.0),
        "n_group": source.keys.integer("expert_group_count", 1),
        "topk_group": source.keys.integer("expert_group_used_count", 1),
        **({"moe_latent_size": latent[0]} if latent else {}),
    }


MAMBA = {
    **renames("ssm_in mixer.in_proj", "ssm_out mixer.out_proj"),
    "ssm_conv1d.weight": Rule("mixer.conv1d.weight", shape=common.conv),
    "ssm_conv1d.bias": Rule("mixer.conv1d.bias", shape=common.flat),
    "ssm_a": Rule("mixer.A_log", log_of_negative, shape=common.flat),
    "ssm_d": Rule("mixer.D", shape=common.flat),
    "ssm_dt.bias": Rule("mixer.dt_bias", shape=common.flat),
    "ssm_norm.weight": Rule("mixer.norm.weight", shape=common.flat),
}
MOE = {
    **{f"ffn_{name}_exps.weight": Experts(f"mixer.experts.{{}}.{name}_proj.weight") for name in ("up", "down")},
    **renames(*(f"ffn_{name}_shexp mixer.shared_experts.{name}_proj" for name in ("up", "down"))),
    **renames(
        "ffn_gate_inp mixer.gate", "ffn_latent_down mixer.fc1_latent_proj", "ffn_latent_up mixer.fc2_latent_proj"
    ),
    "exp_probs_b.bias": Rule("mixer.gate.e_score_correction_bias"),
}
MLP = renames("ffn_up mixer.up_proj", "ffn_down mixer.down_proj")


def _attention(keys: dict) -> dict[str, Rule]:
    rules = renames("attn_v mixer.v_proj", "attn_output mixer.o_proj")
    heads = {"q": keys.get("num_attention_heads", 1), "k": keys.get("num_key_value_heads", 1)}
    for name, count in heads.items():
        rules[f"attn_{name}.weight"] = Rule(f"mixer.{name}_proj.weight", partial(unpermute, num_heads=count))
    return rules


def names(source: Source, keys: dict) -> Names:
    """One norm and one module in each block; that of multi-token prediction joins two published layers."""
    attention = _attention(keys)
    kinds = {"M": MAMBA, "*": attention, "E": MOE, "-": MLP}
    norm = renames("attn_norm norm")
    letters = keys["hybrid_override_pattern"]
    blocks = [Block(f"backbone.layers.{number}.", {**norm, **kinds[kind]}) for number, kind in enumerate(letters)]
    for _ in range(keys.get("num_nextn_predict_layers", 0)):
        first = {**norm, **attention, **renames(*(f"nextn.{name} {name}" for name in ("eh_proj", "enorm", "hnorm")))}
        second = {
            **MOE,
            **renames("post_attention_norm norm", "ffn_norm norm", "nextn.shared_head_norm final_layernorm"),
        }
        both = [(first, "0."), (second, "1.")]
        rules = {name: rule.below(layer) for part, layer in both for name, rule in part.items()}
        blocks.append(Block("mtp.layers.", rules))
    trunk = renames("token_embd backbone.embeddings", "output_norm backbone.norm_f", "output lm_head")
    return Names(trunk, tuple(blocks))


ARCHITECTURES = tuple(Architecture(name, config, names, IGNORED) for name in ("nemotron_h", "nemotron_h_moe"))
