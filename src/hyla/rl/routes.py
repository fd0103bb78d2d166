"""Routing replay: the trainer's forward takes the experts that the engine's took (R3, arXiv 2510.11370).

Where both have one arithmetic the choices are the same and nothing changes. Where they differ, a token near the border
of two experts would go through another one in training than when it was drawn, and its ratio would jump.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from hyla.engine import RouterChoices
from hyla.engine.routes import ids_of, mixtures, routers
from hyla.errors import ConfigError
from hyla.models.config import ModelConfig
from hyla.models.trunk import Model
from hyla.rl.samples import Sample


class KnownRoutes:
    """What the engine told of a round. A row that it had cached was computed for an answer of the same round (the cache
    is empty when a round begins), so the choices of its text are found there.
    """

    def __init__(self, samples: Iterable[Sample]):
        self._places: dict[tuple[int, int], int] = {}
        """By (place of the text before, token) the place of a text: equal beginnings are one place."""
        self._ids: dict[int, np.ndarray] = {}
        """int64 [L, k] of the last token of the text at a place."""
        for sample in samples:
            if sample.routes is None:
                continue
            choices, places = RouterChoices.from_text(sample.routes), self._walk(sample)
            for place, ids_Lk in zip(places[choices.first :], ids_of(choices)):
                if ids_Lk[0, 0] >= 0:
                    self._ids.setdefault(place, ids_Lk)

    def _walk(self, sample: Sample) -> list[int]:
        """The place of each row of an answer."""
        places, here = [], -1
        for token in (*sample.prompt_ids, *sample.token_ids[:-1]):
            here = self._places.setdefault((here, token), len(self._places))
            places.append(here)
        return places

    def of(self, samples: Sequence[Sample], shape: tuple[int, int]) -> torch.Tensor:
        """int64 [T, L, k] of the rows of these answers; -1: nobody told, and the trainer's router chooses."""
        unknown_Lk = np.full(shape, -1, np.int64)
        rows = [self._ids.get(place, unknown_Lk) for sample in samples for place in self._walk(sample)]
        return torch.from_numpy(np.stack(rows))


def replayed_shape(config: ModelConfig) -> tuple[int, int]:
    """Mixtures of a model, and the experts of a row in each. Raises ConfigError where that is no one number."""
    found = routers(config)
    if found is None:
        raise ConfigError(
            "policy.replay_routes needs a model with experts, as many for a token in each mixture; leave it out"
        )
    return found[:2]


class Replay:
    """Gives the mixtures of a model the choices of the rows of a pass, and counts."""

    def __init__(self, model: Model):
        """Raises ConfigError as `replayed_shape`."""
        self.shape = replayed_shape(model.config)
        self._modules = mixtures(model)
        self._is_counting = False
        self._num_known = self._num_rows = self._num_replaced = 0
        """Choices (of a row in a mixture) that were told; all; and those that differ from the router's own."""

    @contextmanager
    def update(self) -> Iterator[None]:
        """Around an update, which is counted alone. Afterwards the routers choose for themselves again."""
        self._num_known = self._num_rows = self._num_replaced = 0
        try:
            yield
        finally:
            for module in self._modules:
                module.replay = None

    @property
    def shares(self) -> dict[str, float]:
        """Of the last update, as its line has them; nothing where no row was computed."""
        if not self._num_rows:
            return {}
        known = self._num_known / self._num_rows
        return {"routes_known": known, "routes_replaced": self._num_replaced / max(self._num_known, 1)}

    @contextmanager
    def forward(self, routes_TLk: torch.Tensor) -> Iterator[None]:
        """Inside, a forward call over T rows takes these choices, int64 [T, L, k], -1 for the router's own. They stay
        for its backward pass, which may compute mixtures once more, to the end of the update."""
        for layer, module in enumerate(self._modules):
            module.replay = _Layer(self, routes_TLk[:, layer])
        self._is_counting = True
        try:
            yield
        finally:
            self._is_counting = False

    def count(self, is_known_T: torch.Tensor, is_other_T: torch.Tensor) -> None:
        if self._is_counting:
            self._num_rows += is_known_T.shape[0]
            self._num_known += int(is_known_T.sum())
            self._num_replaced += int(is_other_T.sum())


class _Layer:
    """The choices of one mixture."""

    def __init__(self, replay: Replay, told_Tk: torch.Tensor):
        self._replay, self._told_Tk = replay, told_Tk

    def __call__(self, own_Tk: torch.Tensor) -> torch.Tensor:
        is_known_T1 = self._told_Tk[:, :1] >= 0
        ids_Tk = torch.where(is_known_T1, self._told_Tk, own_Tk)
        self._replay.count(is_known_T1[:, 0], (ids_Tk != own_Tk).any(-1))
        return ids_Tk
