"""A module made from its table of parameters: it creates them, its products and their start values from the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import nn

from hyla.layers.linear import Linear, Projection
from hyla.layers.parameters import Parameter, Start, Table, by_name, products


class Layer(nn.Module):
    """Base of the mixers and channel mixers.

    A row "q.weight" becomes a `Linear` called q, with a bias where there is a row "q.bias"; a row "A_log" becomes a
    parameter, and the rows of the product "in" a `Projection` called in_projection. What stays fp32 in every product (a
    router) has none.
    """

    optional: ClassVar[tuple[str, ...]] = ()
    """Attributes that are None where the table has no such row or product."""
    registered_first: ClassVar[tuple[str, ...]] = ()
    """Names that PyTorch lists before the others. Sums over all gradients and digests of all weights follow that
    list, so its order is part of the numbers, and a table is free to have another."""

    def __init__(
        self,
        table: Table,
        norms: Mapping[str, Callable[[int], nn.Module]] | None = None,
        parts: Mapping[str, nn.Module] | None = None,
    ):
        """norms: by name, what makes a norm of a size. parts: by name, modules with tables of their own."""
        super().__init__()
        self.table, norms, parts = table, norms or {}, parts or {}
        rows, names = by_name(table), {row.name.partition(".")[0] for row in table}
        first = [name for name in self.registered_first if name in names]
        for name in dict.fromkeys([*first, *(row.name.partition(".")[0] for row in table)]):
            if name in parts:
                setattr(self, name, parts[name])
            elif name in norms:
                setattr(self, name, norms[name](rows[f"{name}.weight"].numel))
            elif name in rows:
                setattr(self, name, blank(rows[name]))
            else:
                row = rows[f"{name}.weight"]
                setattr(self, name, Linear(row.in_dim, row.out_dim, has_bias=f"{name}.bias" in rows))
        self.projections: tuple[Projection, ...] = ()
        rows_here = [row for row in table if row.name.partition(".")[0] not in parts]
        for product, members in products(rows_here).items():
            if not members[0].is_fp32:
                projection = projection_of(self, members)
                setattr(self, f"{product}_projection", projection)
                self.projections += (projection,)
        for name in self.optional:
            if not hasattr(self, name):
                setattr(self, name, None)

    @property
    def fp32_parameters(self) -> tuple[str, ...]:
        """Names of the parameters, not in parts of its own, that stay fp32 whatever the model's dtype."""
        return tuple(row.name for row in self.table if row.is_fp32 and "." not in row.name)

    def initialize(self, std: float, generator: torch.Generator) -> None:
        """Draw the start value of every parameter, parts and norms included, in the order of the table."""
        initialize(self, self.table, std, generator)


def blank(row: Parameter) -> nn.Parameter:
    """A parameter without values."""
    return nn.Parameter(torch.empty(row.shape, dtype=torch.float32 if row.is_fp32 else None))


def projection_of(module: nn.Module, rows: Table) -> Projection:
    """The projection of one product's rows, whose names are relative to the module."""
    places = [row.name.rpartition(".") for row in rows]
    holders = [(module.get_submodule(path), leaf) for path, _, leaf in places]
    is_per_head = len(rows[0].dims) == 3 and not rows[0].experts
    head_layout = ("in_out" if rows[0].in_place == -2 else "out_in") if is_per_head else None
    return Projection(*holders, head_layout=head_layout)


@torch.no_grad()
def initialize(module: nn.Module, table: Table, std: float, generator: torch.Generator) -> None:
    """Draw every parameter of a table anew, in its order, in place. std: of those that start as Normal(0, std)."""
    for row in table:
        path, _, leaf = row.name.rpartition(".")
        owner = module.get_submodule(path)
        weight = getattr(owner, leaf)
        # Drawn where the generator is, on the CPU: devices draw other numbers from the same seed.
        is_here = weight.device == generator.device
        drawn = weight if is_here else torch.empty_like(weight, device=generator.device)
        fill(drawn, row.start, owner, std, generator)
        if not is_here:
            weight.copy_(drawn)


def fill(weight: torch.Tensor, start: Start, owner: nn.Module, std: float, generator: torch.Generator) -> None:
    """One parameter's start value. owner: its module, which knows whether a norm is zero-centred."""
    if start.kind == "normal":
        nn.init.normal_(weight, std=std, generator=generator)
    elif start.kind == "uniform":
        nn.init.uniform_(weight, start.low, start.high, generator=generator)
    elif start.kind == "log_of_uniform":
        weight.uniform_(start.low, start.high, generator=generator).log_()
    elif start.kind == "inverse_softplus":
        dt = weight.uniform_(math.log(start.low), math.log(start.high), generator=generator).exp_()
        weight.copy_(dt + torch.log(-torch.expm1(-dt)))
    elif start.kind == "unit_scale":
        weight.fill_(0.0 if owner.zero_centered else 1.0)
    else:
        weight.fill_(1.0 if start.kind == "ones" else 0.0)
