"""The parameters of a config as data (`layers.parameters`), before any module is built. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import replace

from hyla.layers.parameters import Table
from hyla.layers.tables import ends
from hyla.models.config import ModelConfig, ModuleConfig, MTPConfig, SublayerConfig
from hyla.models.kinds import kind_of


def module_parameters(config: ModuleConfig, hidden_dim: int) -> Table:
    """The parameters of one mixer or channel mixer, named relative to its module."""
    return kind_of(config).parameters(config, hidden_dim)


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
