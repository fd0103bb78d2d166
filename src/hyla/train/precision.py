"""The fp32 numbers that are trained: the model's own, or in a bf16 model those that its weights are rounded from."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from hyla.errors import ConfigError
from hyla.models.state import cast
from hyla.models.trunk import Model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def freeze(model: Model, trainable: Sequence[str]) -> None:
    """Leave gradients to the parameters whose names match one of the patterns.

    Raises ConfigError for a pattern that matches none.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in trainable:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"trainable = {pattern!r} matches no parameter; they are called like {names[0]!r}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in trainable))


class Masters:
    """By name, the fp32 tensors that an optimizer updates, and the way to and from the model that computes.

    In an fp32 model they are the model's parameters. In a bf16 model, which computes exactly as it will be served,
    those of fp32 rows are; of the others the model has the nearest bf16 numbers, and its gradients are added up in
    fp32.
    """

    def __init__(self, model: Model, dtype: str = "fp32"):
        """model: in fp32, with the gradients that are wanted; becomes one of `dtype` in place."""
        learnt = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.weights: dict[str, torch.nn.Parameter] = learnt
        self._rounded: dict[str, torch.nn.Parameter] = {}
        """By name, the model's parameters that are copies of `weights`."""
        if DTYPES[dtype] == torch.float32:
            return
        cast(model, DTYPES[dtype])
        parameters = dict(model.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in learnt)
        for name, weight in learnt.items():
            if parameters[name].dtype == weight.dtype:
                self.weights[name] = parameters[name]
            else:
                self.weights[name] = torch.nn.Parameter(weight.detach())
                self._rounded[name] = parameters[name]

    def collect(self) -> None:
        """Add what the last backward pass left at the model's parameters, and clear it there."""
        for name, parameter in self._rounded.items():
            if parameter.grad is None:
                continue
            weight, gradient = self.weights[name], parameter.grad.to(torch.float32)
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
            parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Round the weights into the model."""
        for name, parameter in self._rounded.items():
            parameter.copy_(self.weights[name])
