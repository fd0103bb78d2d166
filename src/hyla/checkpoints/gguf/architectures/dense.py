"""Dense full attention: `llama` (with rows of q and k in pairs), `qwen2` (with biases) and `qwen3`."""

from __future__ import annotations

from functools import partial

from hyla.checkpoints.gguf.architectures import common
from hyla.checkpoints.gguf.architectures.architecture import Architecture, Source
from hyla.checkpoints.gguf.inverses import unpermute
from hyla.checkpoints.gguf.names import Block, Names, Rule, renames
from hyla.errors import CheckpointError

BIASES = renames(
    *(f"attn_{ours} self_attn.{theirs}_proj" for ours, theirs in zip(("q", "k", "v", "output"), "qkvo")),
    *(f"ffn_{name} mlp.{name}_proj" for name in ("gate", "up", "down")),
    suffix=".bias",
)


def _keys(source: Source, model_type: str) -> dict:
    keys = {
        "model_type": model_type,
        **common.trunk_keys(source),
        **common.grouped_query(source),
        **common.rope(source),
        "intermediate_size": source.keys.integer("feed_forward_length"),
    }
    common.whole_rotation(source, keys["head_dim"])
    return keys


def llama_config(source: Source) -> dict:
    """config.json of a `llama`. Raises CheckpointError for one with experts."""
    if source.keys.integer("expert_count", 0):
        raise CheckpointError(f"{source.path} is a llama with experts (Mixtral); Hyla reads dense llama files only")
    source.keys.pass_over("expert_used_count")  # 0, or what nobody uses
    biases = {
        "attention_bias": source.in_block(0, "attn_q.bias"),
        "mlp_bias": source.in_block(0, "ffn_gate.bias"),
    }
    return {**_keys(source, "llama"), **biases}


def qwen2_config(source: Source) -> dict:
    """config.json of a `qwen2`: the head's size is there only where it is not the usual one."""
    keys = _keys(source, "qwen2")
    if keys["head_dim"] * keys["num_attention_heads"] == keys["hidden_size"]:
        keys.pop("head_dim")
    return keys


def qwen3_config(source: Source) -> dict:
    """config.json of a `qwen3`."""
    return _keys(source, "qwen3")


def _names(rules: dict[str, Rule], keys: dict) -> Names:
    """The same rules in every block; divisors of frequencies are read into the config."""
    blocks = tuple(Block(f"model.layers.{number}.", rules) for number in range(keys["num_hidden_layers"]))
    return Names(common.TRUNK, blocks, {"rope_freqs.weight": "read into rope_scaling"})


def llama_names(source: Source, keys: dict) -> Names:
    """q and k are turned back, biases included."""
    rules = {**common.NORMS, **common.ATTENTION, **common.MLP, **BIASES}
    heads = {"q": keys["num_attention_heads"], "k": keys["num_key_value_heads"]}
    for name, count in heads.items():
        for kind in ("weight", "bias"):
            rules[f"attn_{name}.{kind}"] = Rule(f"self_attn.{name}_proj.{kind}", partial(unpermute, num_heads=count))
    return _names(rules, keys)


def qwen2_names(source: Source, keys: dict) -> Names:
    """Biases of q, k and v."""
    return _names({**common.NORMS, **common.ATTENTION, **common.MLP, **BIASES}, keys)


def qwen3_names(source: Source, keys: dict) -> Names:
    """Norms of q and k."""
    return _names({**common.NORMS, **common.ATTENTION, **common.QK_NORMS, **common.MLP}, keys)


ARCHITECTURES = (
    Architecture("llama", llama_config, llama_names),
    Architecture("qwen2", qwen2_config, qwen2_names),
    Architecture("qwen3", qwen3_config, qwen3_names),
)
