"""Which parameter is updated how: AdamW for all, or Muon for the matrices inside the stack.

Which are decayed and which Muon takes, the model's table of parameters says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from hyla.layers.parameters import Table, by_name
from hyla.train.config import TrainConfig
from hyla.train.muon import Muon, heads_of
from hyla.train.rounding import generator_of, round_by_chance
from hyla.train.schedule import rate_factor

COUNT = "step"
"""AdamW's own count of its steps, a number on the host."""


class Optimizer:
    """The optimizers of one run, their schedule, and their state as named tensors."""

    def __init__(self, weights: Mapping[str, torch.nn.Parameter], table: Table, config: TrainConfig):
        """weights: fp32, by name, as `train.precision.Masters` has them. table: the model's parameters; what is not in
        it (an adapter's) is updated by AdamW and not decayed."""
        self.config = config
        self.names: dict[torch.Tensor, str] = {weight: name for name, weight in weights.items()}
        rows = by_name(table)
        use_muon = config.optimizer == "muon"
        matrices = [w for w, n in self.names.items() if use_muon and n in rows and rows[n].muon is not None]
        chosen = set(matrices)
        rest = [(weight, rows.get(name)) for weight, name in self.names.items() if weight not in chosen]
        decayed = [weight for weight, row in rest if row is not None and row.is_decayed]
        others = [weight for weight, row in rest if row is None or not row.is_decayed]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        betas = (config.beta1, config.beta2)
        self.parts: list[torch.optim.Optimizer] = []
        if groups:
            self.parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True))
        if matrices:
            heads = {w: heads_of(rows[self.names[w]]) for w in matrices} if config.muon_unit == "head" else {}
            rate, decay = config.matrix_learning_rate, config.weight_decay
            self.parts.append(Muon(matrices, lr=rate, momentum=config.momentum, weight_decay=decay, heads=heads))
        self.peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]
        self._owners = {w: part for part in self.parts for group in part.param_groups for w in group["params"]}

    def step(self, step: int) -> float:
        """Update the weights with their gradients, at the rate of `step`, and clear these; returns AdamW's rate."""
        factor = rate_factor(step, self.config)
        for part, peaks in zip(self.parts, self.peaks):
            for group, peak in zip(part.param_groups, peaks):
                group["lr"] = peak * factor
        if self.config.state_dtype == "bf16":
            self._step_one_by_one(step)
        else:
            for part in self.parts:
                part.step()
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        return self.config.learning_rate * factor

    def _step_one_by_one(self, step: int) -> None:
        """The same updates, of one parameter after another, so that only its memory is in fp32."""
        gradients = {weight: weight.grad for weight in self.names}
        for weight in self.names:
            weight.grad = None
        for number, (weight, gradient) in enumerate(gradients.items()):
            part = self._owners[weight]
            weight.grad, state = gradient, part.state[weight]
            for kind, tensor in state.items():
                state[kind] = tensor if kind == COUNT else tensor.to(torch.float32)
            part.step()
            generator = generator_of(self.config.seed, step, number)
            for kind, tensor in state.items():
                state[kind] = tensor if kind == COUNT else round_by_chance(tensor, generator)
            weight.grad = None

    def _states(self) -> Iterator[tuple[str, dict]]:
        for part in self.parts:
            for parameter, state in part.state.items():
                yield self.names[parameter], state

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """The optimizers' memory, as "kind/parameter name" -> tensor (not copied)."""
        return {f"{kind}/{name}": tensor for name, state in self._states() for kind, tensor in state.items()}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `state_tensors` returned; what stood there before is forgotten."""
        for part in self.parts:
            part.state.clear()
        weights = {name: weight for weight, name in self.names.items()}
        for key, tensor in tensors.items():
            kind, name = key.split("/", 1)
            parameter = weights[name]
            part = self._owners[parameter]
            device = tensor.device if kind == COUNT else parameter.device
            part.state[parameter][kind] = tensor.to(device, copy=True)
