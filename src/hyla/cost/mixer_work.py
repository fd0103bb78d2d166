"""FLOPs and bytes of the mixers' operators in one call, beside their projections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hyla.cost import formulas
from hyla.cost.call import Setting, Work
from hyla.models.config import (
    GatedDeltaConfig,
    KDAConfig,
    LightningConfig,
    LinearAttentionConfig,
    Mamba2Config,
    MLAConfig,
    SoftmaxConfig,
    SparseMLAConfig,
)


def _softmax(config: SoftmaxConfig, at: Setting) -> Iterator[Work]:
    step, value_dim = at.step, config.value_dim or config.head_dim
    flops = formulas.attention.flops(
        step.start, step.length, config.num_heads, config.head_dim, value_dim, config.window
    )
    cached = formulas.attention.decode_bytes(
        step.context_tokens, config.num_kv_heads, config.head_dim, value_dim, at.size, config.window
    )
    written = (step.length - 1) * formulas.attention.cache_bytes_per_token(
        config.num_kv_heads, config.head_dim, value_dim, at.size
    )
    yield _mixer_work(
        "attention", config.kind, flops, cached + written, config.num_heads * (config.head_dim + value_dim), at
    )


def _mixer_work(operator: str, kind: str, flops: float, cached: float, channels: int, at: Setting) -> Work:
    """flops, cached: of one sequence. channels: activations per row that the operator reads and writes."""
    sequences, size = at.step.num_sequences, 4 if at.is_ours else at.size
    return Work(
        operator,
        kind,
        flops=sequences * flops,
        cache_bytes=sequences * cached,
        activation_bytes=at.step.num_rows * channels * size,
        is_fp32=at.is_ours,
        is_decode=at.step.is_decode,
    )


def _mla_attention(config: MLAConfig, at: Setting) -> Work:
    step, heads = at.step, config.num_heads
    latent, key_dim = config.kv_lora_dim, config.kv_lora_dim + config.rope_dim
    cached = formulas.attention.decode_bytes(step.context_tokens, 1, key_dim, 0, at.size)
    cached += (step.length - 1) * formulas.attention.cache_bytes_per_token(1, key_dim, 0, at.size)
    if at.is_ours or step.is_decode:
        flops = formulas.attention.flops(step.start, step.length, heads, key_dim, latent)
        return _mixer_work("attention", config.kind, flops, cached, heads * (key_dim + latent), at)
    expanded_dim = config.nope_dim + config.rope_dim
    flops = formulas.attention.flops(step.start, step.length, heads, expanded_dim, config.value_dim)
    # Latents of earlier calls are expanded again; those of this call are counted with the projections.
    flops += 2 * step.start * heads * latent * (config.nope_dim + config.value_dim)
    return _mixer_work("attention", config.kind, flops, cached, heads * (2 * expanded_dim + 2 * config.value_dim), at)


def _mla(config: MLAConfig, at: Setting) -> Iterator[Work]:
    yield _mla_attention(config, at)


def _sparse_mla(config: SparseMLAConfig, at: Setting) -> Iterator[Work]:
    step, heads, latent = at.step, config.num_heads, config.kv_lora_dim
    key_dim, index_dim = latent + config.rope_dim, config.index_dim
    index_flops = formulas.sparse.index_flops(step.start, step.length, config.num_index_heads, index_dim)
    index_bytes = (-(-step.context_tokens // formulas.sparse.PAGE) * formulas.sparse.PAGE + step.length) * index_dim
    yield _mixer_work(
        "indexer", config.kind, index_flops, index_bytes * at.size, config.num_index_heads * index_dim, at
    )
    flops = formulas.sparse.attention_flops(step.start, step.length, heads, key_dim, latent, config.num_selected)
    both = formulas.sparse.decode_bytes(step.context_tokens, index_dim, key_dim, config.num_selected, at.size)
    cached = both - (index_bytes - (step.length - 1) * index_dim) * at.size
    if not step.is_decode:  # rows share the keys that they select
        cached = (step.context_tokens + step.length) * key_dim * at.size
    yield _mixer_work("attention", config.kind, flops, cached, heads * (key_dim + latent), at)


def _recurrent(operator: str, sublayer_config, at: Setting, *, dims: dict, extra: dict, conv: tuple[int, int]) -> Work:
    """extra: what the chunk formulas take beside `dims`; conv: channels and taps of the short convolution."""
    cost, step = getattr(formulas, operator), at.step
    channels, taps = conv
    conv_flops = step.length * formulas.short_conv.flops_per_token(channels, taps) if channels else 0
    conv_bytes = formulas.short_conv.decode_bytes_per_sequence(channels, taps, at.size)
    if step.is_decode and not at.is_ours:
        flops, cached = cost.recurrent_flops_per_token(**dims), 2 * cost.state_bytes(**dims)
    elif step.is_decode:
        flops, cached = cost.flops_per_token(**dims, **extra), cost.decode_bytes_per_token(**dims, **extra)
    else:
        flops = step.length * cost.flops_per_token(**dims, **extra)
        cached = cost.state_bytes(**dims) * (2 if step.start else 1)
    heads = dims.get("num_heads") or dims["num_value_heads"]
    read = max(channels, heads * (2 * dims["key_dim"] + dims["value_dim"]))
    return _mixer_work(
        operator, sublayer_config.kind, flops + conv_flops, cached + conv_bytes, read + heads * dims["value_dim"], at
    )


def _gated_delta(config: GatedDeltaConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_value_heads": config.num_value_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    channels = 2 * config.num_key_heads * config.key_dim + config.num_value_heads * config.value_dim
    extra = {"num_key_heads": config.num_key_heads}
    yield _recurrent("gated_delta", config, at, dims=dims, extra=extra, conv=(channels, config.conv_len))


def _kda(config: KDAConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    channels = config.num_heads * (2 * config.key_dim + config.value_dim)
    yield _recurrent("kda", config, at, dims=dims, extra={}, conv=(channels, config.conv_len))


def _lightning(config: LightningConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.head_dim, "value_dim": config.head_dim}
    yield _recurrent("lightning", config, at, dims=dims, extra={}, conv=(0, 0))


def _mamba2(config: Mamba2Config, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.state_dim, "value_dim": config.head_dim}
    channels = config.num_heads * config.head_dim + 2 * config.num_groups * config.state_dim
    extra = {"num_groups": config.num_groups}
    yield _recurrent("ssd", config, at, dims=dims, extra=extra, conv=(channels, config.conv_len))


def _linear(config: LinearAttentionConfig, at: Setting) -> Iterator[Work]:
    dims = {"num_heads": config.num_heads, "key_dim": config.key_dim, "value_dim": config.value_dim}
    yield _recurrent("linear", config, at, dims=dims, extra={}, conv=(0, 0))


MIXERS: dict[str, Callable[..., Iterator[Work]]] = {
    "softmax": _softmax,
    "mla": _mla,
    "sparse_mla": _sparse_mla,
    "gated_delta": _gated_delta,
    "kda": _kda,
    "lightning": _lightning,
    "mamba2": _mamba2,
    "linear": _linear,
}
"""By kind: the operators of one sublayer, beside its projections."""
