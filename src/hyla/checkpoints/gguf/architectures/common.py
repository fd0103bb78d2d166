"""What most architectures share: keys of config.json from metadata and shapes, and the usual names of tensors."""

from __future__ import annotations

from math import nextafter, prod

import numpy as np

from hyla.checkpoints.gguf.architectures.architecture import Source
from hyla.checkpoints.gguf.file import TensorInfo
from hyla.checkpoints.gguf.names import Experts, Rule, renames
from hyla.checkpoints.gguf.quants import decode_rows
from hyla.errors import CheckpointError

TRUNK = {
    **renames("token_embd model.embed_tokens", "output_norm model.norm", "output lm_head"),
}
"""Outside of the blocks."""
NORMS = renames("attn_norm input_layernorm", "ffn_norm post_attention_layernorm")
ATTENTION = renames(
    *(f"attn_{ours} self_attn.{theirs}_proj" for ours, theirs in zip(("q", "k", "v", "output"), "qkvo"))
)
QK_NORMS = renames("attn_q_norm self_attn.q_norm", "attn_k_norm self_attn.k_norm")
MLP = renames(*(f"ffn_{name} mlp.{name}_proj" for name in ("gate", "up", "down")))


def experts(gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj", *, within: str) -> dict[str, Rule]:
    """Stacks of experts, published one by one below `within` (e.g. "mlp.experts.")."""
    pairs = {"gate": gate, "up": up, "down": down}
    return {f"ffn_{ours}_exps.weight": Experts(f"{within}{{}}.{theirs}.weight") for ours, theirs in pairs.items()}


def shape_of(source: Source, name: str) -> tuple[int, ...]:
    """Of a tensor that must be there."""
    return info_of(source, name).shape


def info_of(source: Source, name: str) -> TensorInfo:
    """A tensor that must be there."""
    found = source.tensors.get(name)
    if found is None:
        raise CheckpointError(f"{source.path}: tensor {name} is missing; fetch the file again, with all its parts")
    return found


def vector(source: Source, name: str) -> np.ndarray:
    """The numbers of a small tensor."""
    info = info_of(source, name)
    if info.nbytes > 1 << 20:
        raise CheckpointError(f"{source.path}: tensor {name} has the shape {info.shape} and should be a short vector")
    return decode_rows(info, 0, info.nbytes // info.row_bytes).reshape(-1)


def num_layers(source: Source) -> int:
    """Blocks of the trunk: block_count counts those of multi-token prediction as well."""
    total, predicting = source.keys.integer("block_count"), source.keys.integer("nextn_predict_layers", 0)
    if not 0 <= predicting < total <= 1024:
        raise CheckpointError(
            f"{source.path}: block_count = {total:,} with nextn_predict_layers = {predicting:,} is no model that Hyla "
            "reads; convert it again"
        )
    return total - predicting


def num_predicting(source: Source, num_blocks: int) -> int:
    """Modules of multi-token prediction that are there: a file may promise one that it does not hold."""
    promised = source.keys.integer("nextn_predict_layers", 0)
    return sum(source.in_block(num_blocks + number, "nextn.eh_proj.weight") for number in range(promised))


def trunk_keys(source: Source, eps: float | None = None) -> dict:
    """The keys that every family has. eps: of the norms; None: as most files say it."""
    keys = source.keys
    vocabulary, hidden = _matrix(source, "token_embd.weight")
    _agree(source, "vocab_size", keys.integer("vocab_size", vocabulary), vocabulary)
    _agree(source, "embedding_length", keys.integer("embedding_length"), hidden)
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": num_layers(source),
        "max_position_embeddings": keys.integer("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon") if eps is None else eps,
        "tie_word_embeddings": source.is_tied,
    }


def _matrix(source: Source, name: str) -> tuple[int, int]:
    shape = shape_of(source, name)
    if len(shape) != 2:
        raise CheckpointError(f"{source.path}: tensor {name} has the shape {shape} and should be a matrix")
    return shape[0], shape[1]


def _agree(source: Source, key: str, said: int, found: int) -> None:
    if said != found:
        raise CheckpointError(
            f"{source.path}: {source.keys.prefix}{key} = {said:,} and token_embd.weight says {found:,}; "
            "convert the model again"
        )


def grouped_query(source: Source, num_kv_heads: int | None = None) -> dict:
    """Heads of softmax attention, equal in all layers. num_kv_heads: None: head_count_kv, a single number."""
    keys = source.keys
    heads = keys.count("attention.head_count")
    head_dim = keys.count("attention.key_length", keys.count("embedding_length") // heads)
    value_dim = keys.integer("attention.value_length", head_dim)
    if value_dim != head_dim:
        raise CheckpointError(
            f"{source.path}: attention.value_length = {value_dim} differs from key_length = {head_dim}; "
            "Hyla does not read that in this architecture"
        )
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": num_kv_heads or keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
    }


def whole_rotation(source: Source, head_dim: int) -> None:
    """Refuse a rotation of a part of the channels, in architectures that have none."""
    rotated = source.keys.integer("rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise CheckpointError(
            f"{source.path}: rope.dimension_count = {rotated} is not the head's {head_dim}; "
            "Hyla does not read that in this architecture"
        )


def rope(source: Source) -> dict:
    """rope_theta, and rope_scaling where there is one."""
    keys = source.keys
    found: dict = {"rope_theta": keys.number("rope.freq_base", 10000.0)}
    scaling = _scaling(source)
    return {**found, "rope_scaling": scaling} if scaling else found


def _scaling(source: Source) -> dict | None:
    keys = source.keys
    kind, factor = keys.text("rope.scaling.type", "none"), keys.number("rope.scaling.factor", 1.0)
    original = keys.maybe_integer("rope.scaling.original_context_length")
    if "rope_freqs.weight" in source.tensors:
        if kind != "none" and factor != 1.0:
            raise CheckpointError(
                f"{source.path} has rope_freqs.weight and rope.scaling.type = {kind!r}; Hyla reads one"
            )
        return {"rope_type": "hyla_factors", "factors": _shortest(vector(source, "rope_freqs.weight"))}
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise CheckpointError(
            f"{source.path}: rope.scaling.type = {kind!r} is not linear or yarn; Hyla does not read it"
        )
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **_yarn(source)}


def _yarn(source: Source) -> dict:
    """What a YaRN scaling says besides factor and length. Nothing stores `truncate`; llama.cpp always truncates."""
    keys, found = source.keys, {}
    if keys.number("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise CheckpointError(f"{source.path}: rope.scaling.yarn_ext_factor is not 1; Hyla does not read that")
    for theirs, ours in (
        ("attn_factor", "attention_factor"),
        ("yarn_attn_factor", "attention_factor"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ):
        if f"rope.scaling.{theirs}" in keys:
            found[ours] = keys.number(f"rope.scaling.{theirs}")
    return found


def _shortest(values: np.ndarray) -> list[float]:
    """The shortest decimals that are the same float32 numbers."""
    return [float(str(value)) for value in values.astype(np.float32)]


def conv(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[channels, 1, length] of a depthwise convolution, stored with or without dimensions of size one."""
    return prod(shape[:-1]), 1, shape[-1]


def flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A vector that was stored with dimensions of size one."""
    return (prod(shape),)


def rotary_fraction(rotary_dim: int, head_dim: int) -> float:
    """partial_rotary_factor: the number whose product with the head's size has rotary_dim as its whole part."""
    found = rotary_dim / head_dim
    return found if int(head_dim * found) == rotary_dim else nextafter(found, 2.0)


def partial_rotation(source: Source, head_dim: int) -> dict:
    """partial_rotary_factor, from how many channels are rotated."""
    rotated = source.keys.integer("rope.dimension_count", head_dim)
    if not 0 < rotated <= head_dim:
        raise CheckpointError(f"{source.path}: rope.dimension_count = {rotated} is not in 1 to {head_dim}")
    return {"partial_rotary_factor": rotary_fraction(rotated, head_dim)}


def dense_layers(source: Source, num_blocks: int) -> list[int]:
    """The blocks with an MLP: by their tensors."""
    return [number for number in range(num_blocks) if source.in_block(number, "ffn_up.weight")]


def leading_dense(source: Source, num_blocks: int) -> int:
    """How many blocks have an MLP, which must be the first ones."""
    dense = dense_layers(source, num_blocks)
    if dense != list(range(len(dense))):
        raise CheckpointError(f"{source.path}: blocks {dense[:8]} have an MLP, and they are not the first ones")
    return len(dense)


def expert_sizes(source: Source) -> tuple[int, int, int]:
    """(experts, their width, the width of what all tokens share or 0), from the first block that has them."""
    suffix = ".ffn_up_exps.weight"
    name = next((name for name in source.tensors if name.endswith(suffix)), None)
    if name is None or len(shape_of(source, name)) != 3:
        raise CheckpointError(f"{source.path}: there is no stack of experts (blk.N{suffix}); convert the model again")
    count, width, _ = shape_of(source, name)
    shared = source.tensors.get(name.replace("_exps", "_shexp"))
    said = source.keys.integer("expert_count", count)
    if said != count:
        raise CheckpointError(f"{source.path}: expert_count = {said:,} and {name} holds {count:,}; convert it again")
    return count, width, shared.shape[0] if shared else 0


GATES = {1: "softmax", 2: "sigmoid"}


def scores(source: Source) -> str:
    """How a router scores its experts: as the file says, else by whether it has a bias."""
    has_bias = any(name.endswith(".exp_probs_b.bias") for name in source.tensors)
    number = source.keys.integer("expert_gating_func", 2 if has_bias else 1)
    if number not in GATES:
        raise CheckpointError(f"{source.path}: expert_gating_func = {number} is not softmax (1) or sigmoid (2)")
    return GATES[number]


def must_be(source: Source, found: object, expected: object, key: str) -> None:
    """Refuse a value that an architecture cannot have."""
    if found != expected:
        raise CheckpointError(
            f"{source.path}: {key} = {found!r} and this architecture has {expected!r} only; Hyla does not read it"
        )


EXPERT_SIZES: tuple[str, ...] = (
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_shared_count",
    "leading_dense_block_count",
)
"""Keys whose values are those of the tensors' shapes, or a default that nothing uses."""
