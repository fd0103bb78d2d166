"""Counts the floating-point operations of matrix products as PyTorch runs them."""

from __future__ import annotations

from math import prod

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

PRODUCTS = {
    aten.mm: lambda a, b: 2 * prod(a.shape) * b.shape[1],
    aten.bmm: lambda a, b: 2 * prod(a.shape) * b.shape[2],
    aten.addmm: lambda c, a, b: 2 * prod(a.shape) * b.shape[1],
    aten.baddbmm: lambda c, a, b: 2 * prod(a.shape) * b.shape[2],
    aten.mv: lambda a, b: 2 * prod(a.shape),
    aten.dot: lambda a, b: 2 * prod(a.shape),
}
"""Operation -> FLOPs; a multiply-add is two."""


class CountProducts(TorchDispatchMode):
    """`flops`: of all matrix products inside the block. `outer`: of outer products, which PyTorch runs as element-wise
    ones that are larger than both factors; what they are added to makes them multiply-adds. `multiplied`: results of
    all other element-wise products of two tensors; `summed`: numbers that went into sums."""

    def __init__(self):
        super().__init__()
        self.flops = self.outer = self.multiplied = self.summed = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        if packet in PRODUCTS:
            self.flops += PRODUCTS[packet](*args[:3] if packet in (aten.addmm, aten.baddbmm) else args[:2])
        elif packet is aten.mul and all(isinstance(arg, torch.Tensor) for arg in args[:2]):
            if result.numel() > max(arg.numel() for arg in args[:2]):
                self.outer += 2 * result.numel()
            else:
                self.multiplied += result.numel()
        elif packet is aten.sum:
            self.summed += args[0].numel()
        return result
