"""Balance of experts: how often each was chosen in a step, the biases that follow, and the routers' z-loss."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hyla.errors import ConfigError
from hyla.layers.moe import MoE
from hyla.models.trunk import Model
from hyla.train.config import RouterConfig


class _AddZGradient(torch.autograd.Function):
    """The same logits; their gradient gains that of scale * sum over rows of logsumexp squared."""

    @staticmethod
    def forward(ctx, logits_TE, scale):
        ctx.save_for_backward(logits_TE)
        ctx.scale = scale
        return logits_TE.view_as(logits_TE)

    @staticmethod
    def backward(ctx, grad_TE):
        (logits_TE,) = ctx.saved_tensors
        log_sums_T1 = logits_TE.logsumexp(-1, keepdim=True)
        return grad_TE + (2.0 * ctx.scale) * log_sums_T1 * (logits_TE - log_sums_T1).exp(), None


class Load(NamedTuple):
    """Of one mixture of experts in one step."""

    name: str
    largest: float
    """Tokens of the busiest expert, in multiples of the mean."""
    idle: int
    """Experts without a token."""


class _Watch:
    """One mixture's choices while a step runs."""

    def __init__(self, module: MoE, z_loss: float):
        self.module, self.z_loss = module, z_loss
        self.counts_E = torch.zeros(module.router.shape[0], dtype=torch.int64, device=module.router.device)
        self.is_counting, self.denominator = False, 1

    def scored(self, logits_TE: torch.Tensor) -> torch.Tensor:
        if self.z_loss and logits_TE.requires_grad:
            return _AddZGradient.apply(logits_TE, self.z_loss / self.denominator)
        return logits_TE

    def chosen(self, ids_Tk: torch.Tensor) -> None:
        if self.is_counting:  # not when the backward pass computes a sublayer once more
            ids_A = ids_Tk.flatten()
            self.counts_E.index_add_(0, ids_A, torch.ones_like(ids_A))  # bincount would wait for a card


class Routing:
    """All mixtures of a model that is trained. Counts are integers, so no grouping of rows changes them."""

    def __init__(self, model: Model, config: RouterConfig):
        """Raises ConfigError for options that this model has nothing for."""
        self._config = config
        found = [(name, module) for name, module in model.named_modules() if isinstance(module, MoE)]
        self._watches = {name: _Watch(module, config.z_loss) for name, module in found}
        has_bias = any(module.router_bias is not None for _, module in found)
        if config.z_loss and not found:
            raise ConfigError(f"router.z_loss = {config.z_loss}, but the model has no experts; leave it out")
        if config.bias_rate and not has_bias:
            raise ConfigError(
                f"router.bias_rate = {config.bias_rate}, but no router of the model has a selection bias; leave it out"
            )

    @property
    def moved_names(self) -> set[str]:
        """Parameters that `update_biases` changes, whether they have a gradient or not."""
        if not self._config.bias_rate:
            return set()
        return {f"{name}.router_bias" for name, watch in self._watches.items() if watch.module.router_bias is not None}

    def begin(self) -> None:
        """A step starts."""
        for watch in self._watches.values():
            watch.module.watch = watch
            watch.counts_E.zero_()

    def forward_pass(self, is_running: bool, denominator: int = 1) -> None:
        """Around a forward pass, whose z-losses are sums over rows divided by `denominator`."""
        for watch in self._watches.values():
            watch.is_counting, watch.denominator = is_running, denominator

    @torch.no_grad()
    def update_biases(self) -> None:
        """Raise the bias of the experts below the mean of the step, lower it above (arXiv 2408.15664, algorithm 1)."""
        if not self._config.bias_rate:
            return
        for watch in self._watches.values():
            if watch.module.router_bias is not None:
                counts_E = watch.counts_E.double()
                towards_E = torch.sign(counts_E.mean() - counts_E).to(watch.module.router_bias.dtype)
                watch.module.router_bias += self._config.bias_rate * towards_E

    def end(self) -> list[Load]:
        """A step is over; how even it was."""
        loads = []
        for name, watch in self._watches.items():
            watch.module.watch = None
            counts = watch.counts_E.double()
            loads.append(Load(name, float(counts.max() / counts.mean().clamp_min(1e-9)), int((counts == 0).sum())))
        return loads
