"""FLOPs and bytes of the mixers' operators in one call, beside their projections."""

from __future__ import annotations

from collections.abc import Iterator

from hyla.cost.call import Setting, Work
from hyla.cost.formulas import attention, formulas_of, short_conv, sparse
from hyla.models.config import ModuleConfig
from hyla.models.kinds import Attention, Indexer, Latent, Recurrence, kind_of


def operator_work(config: ModuleConfig, at: Setting) -> Iterator[Work]:
    """The operators of one sublayer, beside its projections; none for a channel mixer."""
    kind = kind_of(config)
    if kind.work is None:
        return
    found = kind.work(config)
    if isinstance(found, Recurrence):
        yield _recurrence(kind.operator, kind.name, found, at)
    elif found.indexer:
        yield from _sparse(kind.name, found, found.indexer, at)
    elif found.latent and not (at.is_ours or at.step.is_decode):
        yield _expanded(kind.name, found, found.latent, at)
    else:
        yield _attention(kind.name, found, at)


def _work(operator: str, kind: str, flops: float, cached: float, channels: int, at: Setting) -> Work:
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


def _attention(kind: str, found: Attention, at: Setting) -> Work:
    step, value_dim = at.step, found.value_dim
    flops = attention.flops(step.start, step.length, found.num_heads, found.key_dim, value_dim, found.window)
    return _work("attention", kind, flops, _cached_bytes(found, at), found.num_heads * (found.key_dim + value_dim), at)


def _cached_bytes(found: Attention, at: Setting) -> int:
    """Keys and values of one sequence that are read and written."""
    dims = (found.num_kv_heads, found.key_dim, found.cached_value_dim, at.size)
    read = attention.decode_bytes(at.step.context_tokens, *dims, found.window)
    return read + (at.step.length - 1) * attention.cache_bytes_per_token(*dims)


def _expanded(kind: str, found: Attention, latent: Latent, at: Setting) -> Work:
    """A prompt whose latents are expanded to keys and values, as other engines do."""
    step, heads = at.step, found.num_heads
    flops = attention.flops(step.start, step.length, heads, latent.key_dim, latent.value_dim)
    # Latents of earlier calls are expanded again; those of this call are counted with the projections.
    flops += 2 * step.start * heads * found.value_dim * latent.expanded_dim
    channels = heads * (2 * latent.key_dim + 2 * latent.value_dim)
    return _work("attention", kind, flops, _cached_bytes(found, at), channels, at)


def _sparse(kind: str, found: Attention, indexer: Indexer, at: Setting) -> Iterator[Work]:
    step, key_dim, index_dim = at.step, found.key_dim, indexer.dim
    index_flops = sparse.index_flops(step.start, step.length, indexer.num_heads, index_dim)
    index_bytes = (-(-step.context_tokens // sparse.PAGE) * sparse.PAGE + step.length) * index_dim
    yield _work("indexer", kind, index_flops, index_bytes * at.size, indexer.num_heads * index_dim, at)
    heads, value_dim, selected = found.num_heads, found.value_dim, indexer.num_selected
    flops = sparse.attention_flops(step.start, step.length, heads, key_dim, value_dim, selected)
    both = sparse.decode_bytes(step.context_tokens, index_dim, key_dim, selected, at.size)
    cached = both - (index_bytes - (step.length - 1) * index_dim) * at.size
    if not step.is_decode:  # rows share the keys that they select
        cached = (step.context_tokens + step.length) * key_dim * at.size
    yield _work("attention", kind, flops, cached, heads * (key_dim + value_dim), at)


def _recurrence(operator: str, kind: str, found: Recurrence, at: Setting) -> Work:
    cost, step, dims = formulas_of(operator), at.step, found.dims
    channels, taps = found.conv_channels, found.conv_taps
    conv_flops = step.length * short_conv.flops_per_token(channels, taps) if channels else 0
    conv_bytes = short_conv.decode_bytes_per_sequence(channels, taps, at.size)
    if step.is_decode and not at.is_ours:
        flops, cached = cost.recurrent_flops_per_token(**dims), 2 * cost.state_bytes(**dims)
    elif step.is_decode:
        flops = cost.flops_per_token(**dims, **found.shared)
        cached = cost.decode_bytes_per_token(**dims, **found.shared)
    else:
        flops = step.length * cost.flops_per_token(**dims, **found.shared)
        cached = cost.state_bytes(**dims) * (2 if step.start else 1)
    heads = found.num_heads
    read = max(channels, heads * (2 * dims["key_dim"] + dims["value_dim"]))
    channels = read + heads * dims["value_dim"]
    return _work(operator, kind, flops + conv_flops, cached + conv_bytes, channels, at)
