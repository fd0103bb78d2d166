"""Which parameter is updated how: AdamW for all, or Muon for the matrices inside the stack.

Which are decayed and which Muon takes, the model's table of parameters says.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hyla.layers.parameters import by_name
from hyla.models.parameters import model_parameters
from hyla.models.trunk import Model
from hyla.train.config import TrainConfig
from hyla.train.schedule import rate_factor

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


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (torch.optim.Muon takes no stacks of matrices, which experts are).

    p <- p (1 - lr wd) - lr sqrt(max(1, O / I)) orthogonalize(g + m buf),  buf = m buf + g.
    """

    def __init__(self, params, *, lr: float, momentum: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

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
        update = orthogonalize(parameter.grad + group["momentum"] * buffer)
        out_dim, in_dim = parameter.shape[-2:]
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * max(1.0, out_dim / in_dim) ** 0.5)


class Optimizer:
    """The optimizers of one run, their schedule, and their state as named tensors."""

    def __init__(self, model: Model, config: TrainConfig):
        self.config = config
        self.names: dict[torch.Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        rows = by_name(model_parameters(model.config))
        use_muon = config.optimizer == "muon"
        matrices = [p for p, name in self.names.items() if use_muon and rows[name].muon is not None]
        chosen = set(matrices)
        rest = {p: rows[name] for p, name in self.names.items() if p not in chosen}
        groups = [
            {"params": [p for p, row in rest.items() if row.is_decayed], "weight_decay": config.weight_decay},
            {"params": [p for p, row in rest.items() if not row.is_decayed], "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=betas, fused=True)
        ]
        if matrices:
            rate = config.matrix_learning_rate
            muon = Muon(matrices, lr=rate, momentum=config.momentum, weight_decay=config.weight_decay)
            self.parts.append(muon)
        self.peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def step(self, step: int) -> float:
        """Update the weights with their gradients, at the rate of `step`, and clear these; returns AdamW's rate."""
        factor = rate_factor(step, self.config)
        for part, peaks in zip(self.parts, self.peaks):
            for group, peak in zip(part.param_groups, peaks):
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return self.config.learning_rate * factor

    def _states(self) -> Iterator[tuple[str, dict]]:
        for part in self.parts:
            for parameter, state in part.state.items():
                yield self.names[parameter], state

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """The optimizers' memory, as "kind/parameter name" -> tensor (not copied)."""
        return {f"{kind}/{name}": tensor for name, state in self._states() for kind, tensor in state.items()}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `state_tensors` returned."""
        owners = {}
        for part in self.parts:
            for group in part.param_groups:
                owners.update({self.names[parameter]: (part, parameter) for parameter in group["params"]})
        for key, tensor in tensors.items():
            kind, name = key.split("/", 1)
            part, parameter = owners[name]
            # AdamW counts its steps on the host, all else lives where the parameter does.
            device = tensor.device if kind == "step" else parameter.device
            part.state[parameter][kind] = tensor.to(device, copy=True)
