"""Parameters and cache bytes of each kind of sublayer by arithmetic on its config; no code shared with the package."""

from __future__ import annotations

CHUNK, BLOCK, RING = 64, 16, 16


def mlp_weights(hidden, config):
    matrices = 2 + (config.activation == "swiglu")
    biases = (matrices - 1) * config.intermediate_dim + hidden
    return matrices * hidden * config.intermediate_dim + config.bias * biases


def moe_weights(hidden, config):
    """(all, working on a token)."""
    matrices = 2 + (config.activation == "swiglu")
    expert = matrices * (config.latent_dim or hidden) * config.expert_dim
    router = config.num_experts * (hidden + config.router.has_bias)
    shared = matrices * hidden * config.shared_dim + hidden * bool(config.shared_gate and config.shared_dim)
    rest = router + shared + 2 * hidden * config.latent_dim
    return rest + config.num_experts * expert, rest + config.num_experts_per_token * expert


def softmax_weights(hidden, config):
    heads, groups, keys = config.num_heads, config.num_kv_heads, config.head_dim
    values = config.value_dim or keys
    count = hidden * ((heads + groups) * keys + (groups + heads) * values + heads * values * config.output_gate)
    if config.qk_norm:
        count += keys * (2 if config.qk_norm_scope == "head" else heads + groups)
    biases = config.qkv_bias * ((heads + groups) * keys + groups * values) + config.out_bias * hidden
    return count + heads * config.sinks + biases


def mla_weights(hidden, config):
    heads, latent, query = config.num_heads, config.kv_lora_dim, config.num_heads * (config.nope_dim + config.rope_dim)
    rank = config.q_lora_dim
    into = hidden * query if rank is None else hidden * rank + rank + rank * query
    latents = hidden * (latent + config.rope_dim) + latent + heads * latent * (config.nope_dim + config.value_dim)
    return into + latents + heads * config.value_dim * hidden + hidden * heads * config.head_gate


def sparse_mla_weights(hidden, config):
    heads, dim = config.num_index_heads, config.index_dim
    return mla_weights(hidden, config) + config.q_lora_dim * heads * dim + hidden * dim + 2 * dim + hidden * heads


def gated_delta_weights(hidden, config):
    keys, values = config.num_key_heads * config.key_dim, config.num_value_heads * config.value_dim
    heads = config.num_value_heads
    conv = (2 * keys + values) * config.conv_len
    return hidden * (2 * keys + 3 * values + 2 * heads) + conv + 2 * heads + config.value_dim


def kda_weights(hidden, config):
    heads, rank = config.num_heads, config.gate_rank
    keys, values = heads * config.key_dim, heads * config.value_dim
    gates = hidden * (keys + values) if rank is None else rank * (2 * hidden + keys + values)
    own = (2 * keys + values) * config.conv_len + heads + keys + config.value_dim
    return hidden * (2 * keys + 2 * values + heads) + gates + own


def lightning_weights(hidden, config):
    width = config.num_heads * config.head_dim
    return 5 * hidden * width + width + 2 * config.head_dim * bool(config.qk_norm)


def mamba2_weights(hidden, config):
    values, keys = config.num_heads * config.head_dim, config.num_groups * config.state_dim
    into = hidden * (2 * values + 2 * keys + config.num_heads)
    return into + (values + 2 * keys) * (config.conv_len + 1) + 3 * config.num_heads + values + values * hidden


def linear_weights(hidden, config):
    return 2 * hidden * config.num_heads * (config.key_dim + config.value_dim)


WEIGHTS = {
    "mlp": mlp_weights,
    "softmax": softmax_weights,
    "mla": mla_weights,
    "sparse_mla": sparse_mla_weights,
    "gated_delta": gated_delta_weights,
    "kda": kda_weights,
    "lightning": lightning_weights,
    "mamba2": mamba2_weights,
    "linear": linear_weights,
}


def count_sublayers(hidden, sublayers):
    """(all, working on a token), with a norm before each and one at the end."""
    total = active = hidden
    for sub in sublayers:
        kind, config = sub.module.kind, sub.module
        found = moe_weights(hidden, config) if kind == "moe" else (WEIGHTS[kind](hidden, config),) * 2
        total, active = total + hidden + found[0], active + hidden + found[1]
    return total, active


def count_model(config):
    """(all, working on a token), multi-token prediction left out."""
    outside = config.vocab_size * config.hidden_dim * (1 if config.tie_embeddings else 2)
    return tuple(outside + part for part in count_sublayers(config.hidden_dim, config.sublayers))


def count_mtp(config, module):
    """(all, working on a token) of one module."""
    hidden = config.hidden_dim
    own = config.vocab_size * hidden * (module.has_own_embedding + module.has_own_head)
    return tuple(part + 2 * hidden * hidden + 2 * hidden + own for part in count_sublayers(hidden, module.sublayers))


def kv_bytes(config):
    """Of one cached token, bf16."""
    kind = config.kind
    if kind == "softmax":
        return 2 * config.num_kv_heads * (config.head_dim + (config.value_dim or config.head_dim))
    if kind in ("mla", "sparse_mla"):
        return 2 * (config.kv_lora_dim + config.rope_dim + (config.index_dim if kind == "sparse_mla" else 0))
    return 0


def state_bytes(config):
    """(fp32 states, bf16 inputs of the convolution, open rows, ring and tail that are kept here beside the states)."""
    kind = config.kind
    if kind == "lightning":
        heads, dim = config.num_heads, config.head_dim
        return 4 * heads * dim * dim, 0, 4 * heads * 2 * CHUNK * dim
    if kind == "mamba2":
        heads, dim, size = config.num_heads, config.head_dim, config.state_dim
        channels = heads * dim + 2 * config.num_groups * size
        rows = 4 * CHUNK * (heads * dim + config.num_groups * size) + 8 * heads * CHUNK
        inputs = 2 * channels * (config.conv_len - 1)
        return 4 * heads * dim * size, inputs, rows + 2 * RING * channels + inputs
    if kind in ("gated_delta", "kda"):
        keys, values = config.key_dim, config.value_dim
        heads = config.num_value_heads if kind == "gated_delta" else config.num_heads
        key_heads = config.num_key_heads if kind == "gated_delta" else heads
        channels = 2 * key_heads * keys + heads * values
        rows = 4 * heads * ((CHUNK + BLOCK) * values + BLOCK * BLOCK) + 4 * key_heads * CHUNK * keys
        # The decays of the open rows, in float64: one per row, or per block and channel, and a block's own rows.
        rows += 8 * heads * CHUNK if kind == "gated_delta" else 8 * heads * (CHUNK // BLOCK + BLOCK) * keys
        inputs = 2 * channels * (config.conv_len - 1)
        return 4 * heads * keys * values, inputs, rows + 2 * RING * channels + inputs
    return 0, 0, 0
