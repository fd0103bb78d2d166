"""Muon: momentum that is orthogonalised, matrix by matrix or head by head."""

from __future__ import annotations

import torch

from hyla.layers.parameters import Parameter

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of Muon (K. Jordan, 2024): five rounds bring singular values near 1."""

NEWTON_SCHULZ_ROUNDS = 5


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with singular values near 1, for [O, I] or each of a stack [.., O, I]; in bfloat16 inside."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if is_tall else matrix).bfloat16()
    x = x / (x.float().square().sum((-2, -1), keepdim=True).sqrt() + 1e-7).bfloat16()
    for _ in range(NEWTON_SCHULZ_ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
        moved = parameter.grad + group["momentum"] * buffer
        heads = self._heads.get(parameter, 1)
        if heads > 1:
            moved = moved.unflatten(0, (heads, -1))
        out_dim, in_dim = moved.shape[-2:]
        update = orthogonalize(moved).reshape(parameter.shape)
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * max(1.0, out_dim / in_dim) ** 0.5)
