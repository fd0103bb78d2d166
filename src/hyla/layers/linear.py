"""Linear projections: separate head-major parameters, one matrix product for all that read the same rows."""

from __future__ import annotations

import torch
from torch import nn

from hyla.ops.exact import rows
from hyla.ops.quant import FP8Tensor, FP8Weight
from hyla.ops.quant import linear as product


class Linear(nn.Module):
    """Holds the bias-free `weight` [out_dim, in_dim]; a `Projection` computes with it."""

    quantisable = ("weight",)
    """Parameters that may be FP8 (`quantised`); the parameter itself then is only a shape, on the meta device."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim))
        self.quantised: dict[str, FP8Tensor] = {}


class Projection:
    """Several `Linear`s over the same rows as one product.

    Plain (trainable) weights are concatenated on the fly; `pack` puts them once into the CPU library's own layout and
    leaves only their shapes behind (on the meta device), so memory is not doubled. Both give the same bits.
    """

    def __init__(self, *linears: Linear, dtype: torch.dtype | None = None):
        """dtype: compute in this dtype (rows and weights are cast), None: in the weights' own."""
        self.linears, self.dtype = linears, dtype
        self.out_dims = [linear.out_dim for linear in linears]
        self._packed: torch.Tensor | None = None
        self._stored_dtype: torch.dtype | None = None

    @property
    def is_packed(self) -> bool:
        return self._packed is not None

    @property
    def is_quantised(self) -> bool:
        """Whether some of the weights are FP8. They stay so: there is nothing to pack."""
        return any(linear.quantised for linear in self.linears)

    def weight(self) -> torch.Tensor | FP8Weight:
        """[sum of out_dims, in_dim], packed, FP8 or plain, in the dtype of the product."""
        if self._packed is not None:
            return self._packed
        if self.is_quantised:
            parts = tuple(linear.quantised.get("weight", linear.weight) for linear in self.linears)
            return FP8Weight(parts, self.dtype or self.linears[0].weight.dtype)
        weights = [linear.weight for linear in self.linears]
        whole = torch.cat(weights) if len(weights) > 1 else weights[0]
        return whole if self.dtype is None else whole.to(self.dtype)

    def fused(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Rows [T, D] -> [T, sum of out_dims]."""
        weight = self.weight()
        return product(x_TD.to(weight.dtype), weight)

    def __call__(self, x_TD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Rows [T, D] -> one [T, out_dim] per linear (views of one tensor)."""
        return self.fused(x_TD).split(self.out_dims, dim=-1)

    def pack(self, keep_plain: bool = False) -> None:
        """Replace the plain weights by one packed tensor (inference only). keep_plain: for a tied embedding."""
        if self._packed is not None or self.is_quantised:
            return
        self._packed = rows.pack(self.weight())
        self._stored_dtype = self.linears[0].weight.dtype
        if keep_plain:
            return
        for linear in self.linears:
            linear.weight = nn.Parameter(linear.weight.detach().to("meta"), requires_grad=False)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that it computes with, in the order of `plain_weights`; on the meta device when packed."""
        return [linear.weight for linear in self.linears]

    def plain_weights(self) -> list[torch.Tensor]:
        """The plain weight of each linear, in its stored dtype, without unpacking the projection."""
        if self._packed is None:
            return [linear.weight.detach() for linear in self.linears]
        whole = rows.unpack(self._packed).to(self._stored_dtype)
        return list(whole.split(self.out_dims))

    def unpack(self) -> None:
        """Undo `pack`: the linears own plain, trainable weights again."""
        if self._packed is None:
            return
        for linear, weight in zip(self.linears, self.plain_weights()):
            if linear.weight.is_meta:
                linear.weight = nn.Parameter(weight.clone())
        self._packed = None
