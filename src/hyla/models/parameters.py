"""The parameters of a config as data (`layers.parameters`), before any module is built. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hyla.layers.parameters import Table
from hyla.layers.tables import (
    ends,
    gated_delta,
    kda,
    lightning,
    linear,
    mamba2,
    mla,
    mlp,
    moe,
    softmax,
    sparse_mla,
)
from hyla.models.config import (
    ChannelMixerConfig,
    LightningConfig,
    MixerConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    MTPConfig,
    SoftmaxConfig,
    SublayerConfig,
)


def _softmax(config: SoftmaxConfig, hidden_dim: int) -> Table:
    return softmax.parameters(
        hidden_dim,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        value_dim=config.value_dim,
        has_output_gate=config.output_gate,
        qk_norm_scope=config.qk_norm_scope if config.qk_norm else None,
        has_sinks=config.sinks,
    )


def _lightning(config: LightningConfig, hidden_dim: int) -> Table:
    return lightning.parameters(
        hidden_dim, num_heads=config.num_heads, head_dim=config.head_dim, has_qk_norm=config.qk_norm is not None
    )


def _mlp(config: MLPConfig, hidden_dim: int) -> Table:
    return mlp.parameters(hidden_dim, intermediate_dim=config.intermediate_dim, has_gate=config.activation == "swiglu")


def _moe(config: MoEConfig, hidden_dim: int) -> Table:
    return moe.parameters(
        hidden_dim,
        num_experts=config.num_experts,
        expert_dim=config.expert_dim,
        has_gate=config.activation == "swiglu",
        has_bias=config.router.has_bias,
        shared_dim=config.shared_dim,
        has_shared_gate=config.shared_gate,
        latent_dim=config.latent_dim,
    )


def _without(parameters: Callable[..., Table], *others: str) -> Callable[..., Table]:
    """For a table whose arguments are the config's fields, but for `others`, which shape no parameter."""

    def table(config, hidden_dim: int) -> Table:
        return parameters(hidden_dim, **config.model_dump(exclude={"kind", *others}))

    return table


TABLES: dict[str, Callable[..., Table]] = {
    "softmax": _softmax,
    "mla": _without(mla.parameters, "norm_eps", "rope", "scale_factor"),
    "sparse_mla": _without(sparse_mla.parameters, "norm_eps", "rope", "scale_factor", "num_selected"),
    "gated_delta": _without(gated_delta.parameters, "norm_eps"),
    "kda": _without(kda.parameters, "norm_eps", "decay_lower_bound"),
    "lightning": _lightning,
    "mamba2": _without(mamba2.parameters, "norm_eps", "time_step_limit"),
    "linear": _without(linear.parameters, "eps"),
    "mlp": _mlp,
    "moe": _moe,
}
"""By kind of module: (config, hidden_dim) -> its table."""


def module_parameters(config: MixerConfig | ChannelMixerConfig, hidden_dim: int) -> Table:
    """The parameters of one mixer or channel mixer, named relative to its module."""
    return TABLES[config.kind](config, hidden_dim)


def sublayer_parameters(config: SublayerConfig, hidden_dim: int) -> Table:
    """The parameters of one sublayer, its norm included: `norm.weight`, `module.*`."""
    inside = (row.within("module.") for row in module_parameters(config.module, hidden_dim))
    return (*ends.norm(hidden_dim), *inside)


def stack_parameters(sublayers: tuple[SublayerConfig, ...], hidden_dim: int) -> Table:
    """The parameters of a list of sublayers: `sublayers.{i}.*`."""
    return tuple(
        row.within(f"sublayers.{place}.")
        for place, sublayer in enumerate(sublayers)
        for row in sublayer_parameters(sublayer, hidden_dim)
    )


def mtp_parameters(config: MTPConfig, hidden_dim: int, vocab_size: int) -> Table:
    """The parameters of one multi-token prediction module, named relative to it. Muon leaves them to AdamW."""
    rows = list(ends.merge(hidden_dim))
    if config.has_own_embedding:
        rows += ends.embedding(hidden_dim, vocab_size=vocab_size)
    if config.has_own_head:
        rows += ends.head(hidden_dim, vocab_size=vocab_size)
    rows += [*stack_parameters(config.sublayers, hidden_dim), *ends.norm(hidden_dim)]
    return tuple(replace(row, muon=None) for row in rows)


def model_parameters(config: ModelConfig) -> Table:
    """Every parameter of a model under its full name, in the order in which start values are drawn."""
    hidden_dim, vocab_size = config.hidden_dim, config.vocab_size
    rows = list(ends.embedding(hidden_dim, vocab_size=vocab_size))
    if not config.tie_embeddings:
        rows += ends.head(hidden_dim, vocab_size=vocab_size)
    rows += [*stack_parameters(config.sublayers, hidden_dim), *ends.norm(hidden_dim)]
    for place, module in enumerate(config.mtp):
        rows += (row.within(f"mtp.{place}.") for row in mtp_parameters(module, hidden_dim, vocab_size))
    return tuple(rows)
