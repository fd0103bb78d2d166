"""The choices of a model's routers, written down while the engine computes (`SamplingParams.router_choices`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hyla.engine.requests.router_choices import RouterChoices
from hyla.layers.moe import MoE
from hyla.models.config import ModelConfig, MoEConfig
from hyla.models.trunk import Model

Routers = tuple[int, int, int]
"""Mixtures of a trunk, experts that a row has in each, experts that there are."""


def mixtures(model: Model) -> list[MoE]:
    """The mixtures of experts of a trunk, in its order."""
    return [sublayer.module for sublayer in model.sublayers if isinstance(sublayer.module, MoE)]


def routers(config: ModelConfig) -> Routers | None:
    """What a row's choices are. None: the model has no mixture, or they choose different numbers of experts."""
    found = [sublayer.module for sublayer in config.sublayers if isinstance(sublayer.module, MoEConfig)]
    sizes = {(module.num_experts_per_token, module.num_experts) for module in found}
    return (len(found), *sizes.pop()) if len(sizes) == 1 else None


class RouteWatch:
    """Looks at the routers of a model inside `with`; then `ids` has one [T, k] a mixture."""

    def __init__(self, modules: Sequence[MoE]):
        self._modules = modules
        self.ids: list[torch.Tensor] = []

    def scored(self, logits_TE: torch.Tensor) -> torch.Tensor:
        return logits_TE

    def chosen(self, ids_Tk: torch.Tensor) -> None:
        self.ids.append(ids_Tk)

    def __enter__(self) -> RouteWatch:
        self._before = [module.watch for module in self._modules]
        for module in self._modules:
            module.watch = self
        return self

    def __exit__(self, *_) -> None:
        for module, watch in zip(self._modules, self._before):
            module.watch = watch

    def rows(self, num_experts: int) -> np.ndarray:
        """[T, L, k] of the forward call, in the smallest type that has a number to spare."""
        ids_TLk = torch.stack(self.ids, dim=1).cpu().numpy()
        return ids_TLk.astype(np.uint8 if num_experts <= 255 else np.dtype("<u2"))


class RouteRecord:
    """The choices of one generation."""

    def __init__(self):
        self._pieces: list[tuple[int, np.ndarray]] = []

    def put(self, first: int, ids_RLk: np.ndarray) -> None:
        """Rows from number `first` on: instead of those of rejected drafts, or the same once more."""
        self._pieces.append((first, ids_RLk.copy()))

    def told(self, num_rows: int) -> RouterChoices | None:
        """Of the first rows of the text; None where no row was computed."""
        pieces = [(first, ids_RLk[: max(num_rows - first, 0)]) for first, ids_RLk in self._pieces]
        begin = min((first for first, ids_RLk in pieces if len(ids_RLk)), default=None)
        if begin is None:
            return None
        _, num_layers, num_chosen = pieces[0][1].shape
        dtype = pieces[0][1].dtype
        whole_RLk = np.full((num_rows - begin, num_layers, num_chosen), np.iinfo(dtype).max, dtype)
        for first, ids_RLk in pieces:
            whole_RLk[first - begin : first - begin + len(ids_RLk)] = ids_RLk
        return RouterChoices(begin, len(whole_RLk), num_layers, num_chosen, dtype.itemsize, whole_RLk.tobytes())


def ids_of(choices: RouterChoices) -> np.ndarray:
    """int64 [num_rows, num_layers, num_chosen]; -1 for rows that are not known."""
    dtype = np.dtype(f"<u{choices.itemsize}")
    shape = (choices.num_rows, choices.num_layers, choices.num_chosen)
    ids_RLk = np.frombuffer(choices.data, dtype).reshape(shape).astype(np.int64)
    ids_RLk[ids_RLk == np.iinfo(dtype).max] = -1
    return ids_RLk
