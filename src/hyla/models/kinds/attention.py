"""The mixers that keep keys and values: softmax attention, whole, windowed, latent and sparse."""

from __future__ import annotations

from hyla.layers.tables import mla, softmax, sparse_mla
from hyla.models.config import MLAConfig, SoftmaxConfig, SparseMLAConfig
from hyla.models.kinds.arguments import fields_without, mla_arguments, softmax_arguments, softmax_sizes
from hyla.models.kinds.kind import Calibration, Kind
from hyla.models.kinds.work import Attention, Indexer, Latent


def _softmax(config: SoftmaxConfig) -> Attention:
    return Attention(
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        key_dim=config.head_dim,
        value_dim=config.value_dim or config.head_dim,
        window=config.window,
    )


def _mla(config: MLAConfig) -> Attention:
    """Absorbed: every head meets the one latent, whose first channels are the values."""
    return Attention(
        num_heads=config.num_heads,
        num_kv_heads=1,
        key_dim=config.kv_lora_dim + config.rope_dim,
        value_dim=config.kv_lora_dim,
        latent=Latent(
            key_dim=config.nope_dim + config.rope_dim,
            value_dim=config.value_dim,
            expanded_dim=config.nope_dim + config.value_dim,
        ),
        indexer=_indexer(config) if isinstance(config, SparseMLAConfig) else None,
    )


def _indexer(config: SparseMLAConfig) -> Indexer:
    return Indexer(num_heads=config.num_index_heads, dim=config.index_dim, num_selected=config.num_selected)


ATTENTION = (
    Kind(
        config=SoftmaxConfig,
        layer="hyla.layers.softmax:SoftmaxAttention",
        table=softmax.parameters,
        sizes=softmax_sizes,
        label="attention",
        operator="attention",
        arguments=softmax_arguments,
        work=_softmax,
        calibration=Calibration(
            tuple(
                SoftmaxConfig(num_heads=heads, num_kv_heads=kv_heads, head_dim=64)
                for heads, kv_heads in ((8, 2), (16, 4))
            ),
            prompts=(256, 1024, 4096),
        ),
    ),
    Kind(
        config=MLAConfig,
        layer="hyla.layers.mla:MLA",
        table=mla.parameters,
        sizes=fields_without("norm_eps", "rope", "scale_factor"),
        label="MLA",
        operator="attention",
        arguments=mla_arguments,
        work=_mla,
        calibration=Calibration(
            tuple(
                MLAConfig(num_heads=heads, kv_lora_dim=256, nope_dim=64, rope_dim=32, value_dim=64) for heads in (4, 12)
            ),
            prompts=(256, 1024, 2048),
        ),
    ),
    Kind(
        config=SparseMLAConfig,
        layer="hyla.layers.sparse_mla:SparseMLA",
        table=sparse_mla.parameters,
        sizes=fields_without("norm_eps", "rope", "scale_factor", "num_selected"),
        label="sparse mla",
        operator="attention",
        arguments=mla_arguments,
        work=_mla,
    ),
)
