"""Muon: momentum that is orthogonalised, matrix by matrix or head by head."""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from hyla.layers.parameters import Parameter
from hyla.ops.exact import gradients

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of Muon (K. Jordan, 2024): five rounds bring singular values near 1."""

NEWTON_SCHULZ_ROUNDS = 5

STACKED_ELEMENTS = 1 << 19
"""Matrices of one shape with so many elements together are orthogonalised at once, in fewer calls."""


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values near 1, for [O, I] or each of a stack [.., O, I]; in bfloat16 inside."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if is_tall else matrix).bfloat16()
    x = x / (x.float().square().sum((-2, -1), keepdim=True).sqrt() + 1e-7).bfloat16()
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = gradients.matmul(x, x.mT)
        x = a * x + gradients.matmul(b * gram + gradients.matmul(c * gram, gram), x)
    return (x.mT if is_tall else x).to(matrix.dtype)


def heads_of(row: Parameter) -> int:
    """Heads whose rows stand one after another in a projection's outputs; 1 where it has none, or one row a head."""
    first = row.dims[0]
    return first[0].size if len(row.dims) == 2 and len(first) > 1 and first[0].name == "heads" else 1


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (torch.optim.Muon takes no stacks of matrices, which experts are).

    p <- p (1 - lr wd) - lr sqrt(max(1, O / I)) orthogonalize(g + m buf),  buf = m buf + g, for each matrix [O, I].
    """

    def __init__(self, params, *, lr: float, momentum: float, weight_decay: float, heads: dict | None = None):
        """heads: of parameters [heads * O, I] whose heads are matrices of their own, how many."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._heads = heads or {}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            stacks: dict[tuple[int, ...], list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks[self._matrices(parameter)].append(parameter)
            for shape, parameters in stacks.items():
                most = max(1, STACKED_ELEMENTS // math.prod(shape))
                for first in range(0, len(parameters), most):
                    self._update(parameters[first : first + most], shape, group)

    def _matrices(self, parameter: torch.Tensor) -> tuple[int, ...]:
        """Shape of what is orthogonalised: of the parameter, or of its heads one by one."""
        heads = self._heads.get(parameter, 1)
        return tuple(parameter.unflatten(0, (heads, -1)).shape if heads > 1 else parameter.shape)

    def _update(self, parameters: list[torch.Tensor], shape: tuple[int, ...], group: dict) -> None:
        """Of parameters of one shape at once."""
        moved = torch.stack([self._moved(parameter, group["momentum"]).view(shape) for parameter in parameters])
        out_dim, in_dim = shape[-2:]
        rate = group["lr"] * max(1.0, out_dim / in_dim) ** 0.5
        for parameter, update in zip(parameters, orthogonalize(moved)):
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
            parameter.add_(update.reshape(parameter.shape), alpha=-rate)

    def _moved(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        """The gradient with its momentum, which is kept."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"].mul_(momentum).add_(parameter.grad)
        return parameter.grad + momentum * buffer
