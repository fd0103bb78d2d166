"""Least squares of L = e + a exp(b x) with one of its quantities held: the profiles that intervals are read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

FLATTEST, STEEPEST = 1e-3, 40.0
"""Bounds of -b times the span of x: from no curve at all to a fall that is over at the second budget."""
COARSE, FINE, ROUNDS = 48, 9, 5
"""Points of the search over b: first over all, then around the best, that many times."""
OUTWARDS = 1e-4 * 2.2 ** np.arange(15)
"""Steps in which the ends of an interval are looked for."""
SMALLEST = 1e-20
"""Least sum of squares, where points lie on a curve to the last bit."""

Rest = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Best:
    """The least sum of squares and where it is."""

    e: float
    a: float
    b: float
    squares: float


class OffsetProfile:
    """Sums of squares of relative errors, 1 - (e + a exp(b x)) / losses, e >= 0, a >= 0.

    x, losses: float64 [budgets]. Steepness k = -b * span is what is searched.
    """

    def __init__(self, x: np.ndarray, losses: np.ndarray):
        self.x, self.losses = x, losses
        self.span = float(x.max() - x.min())
        steepness, squares = _least(self._free, 1, 3 * ROUNDS)
        e, a, _ = self._pair(steepness)
        self.steepness = float(steepness[0, 0])
        self.best = Best(float(e[0, 0]), float(a[0, 0]), -self.steepness / self.span, max(float(squares[0]), SMALLEST))

    @property
    def has_exponent(self) -> bool:
        """Whether the best b lies inside the bounds of the search."""
        return FLATTEST * 1.05 < self.steepness < STEEPEST / 1.05

    def e_ends(self, allowed: float) -> tuple[float, float]:
        """Lowest and highest e whose sum of squares is at most `allowed` times the least."""
        steps = float(self.losses.max()) * OUTWARDS
        down = np.append(self.best.e - steps[steps < self.best.e], 0.0) if self.best.e > 0 else np.zeros(0)
        low = self._end(self._with_e, down, self.best.e, allowed, 0.0)
        return low, self._end(self._with_e, self.best.e + steps, self.best.e, allowed, inf)

    def a_ends(self, allowed: float) -> tuple[float, float]:
        """The same for a."""
        return self._ends_by_factors(self._with_a, self.best.a, allowed)

    def loss_ends(self, x: float, estimate: float, allowed: float) -> tuple[float, float]:
        """The same for the loss at x."""
        return self._ends_by_factors(lambda held, k: self._with_loss(held, k, x), estimate, allowed)

    def b_ends(self, allowed: float) -> tuple[float, float]:
        """The same for b; -inf where the steepest curve is still allowed."""

        def squares(k: np.ndarray) -> np.ndarray:
            return self._pair(k[:, None])[2][:, 0]

        steeper = np.geomspace(self.steepness, STEEPEST, 60)[1:]
        flatter = np.geomspace(self.steepness, FLATTEST, 60)[1:]
        limit = allowed * self.best.squares
        low = _first_above(squares, steeper, self.steepness, limit, inf)
        high = _first_above(squares, flatter, self.steepness, limit, 0.0)
        return -low / self.span, -high / self.span

    def _ends_by_factors(self, rest: Rest, estimate: float, allowed: float) -> tuple[float, float]:
        low = self._end(rest, estimate * np.exp(-OUTWARDS), estimate, allowed, 0.0)
        return low, self._end(rest, estimate * np.exp(OUTWARDS), estimate, allowed, inf)

    def _end(self, rest: Rest, outwards: np.ndarray, start: float, allowed: float, limit: float) -> float:
        def squares(held: np.ndarray) -> np.ndarray:
            return _least(lambda k: rest(held[:, None], k), len(held))[1]

        return _first_above(squares, outwards, start, allowed * self.best.squares, limit) if len(outwards) else limit

    def _decay(self, k: np.ndarray) -> np.ndarray:
        """exp(b x) [n, m, budgets] at steepness k [n, m]."""
        return np.exp(-k[..., None] * (self.x / self.span))

    def _free(self, k: np.ndarray) -> np.ndarray:
        return self._pair(k)[2]

    def _pair(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best e and a at steepness k, and their sum of squares, each [n, m]."""
        u, v = 1 / self.losses, self._decay(k) / self.losses
        uu, uv, vv, u1, v1 = u @ u, v @ u, (v * v).sum(-1), u.sum(), v.sum(-1)
        e = np.maximum((vv * u1 - uv * v1) / np.maximum(uu * vv - uv * uv, 1e-300), 0.0)
        a = (v1 - e * uv) / vv
        # A curve that would rise is a constant.
        e, a = np.where(a < 0, u1 / uu, e), np.maximum(a, 0.0)
        return e, a, ((1 - e[..., None] * u - a[..., None] * v) ** 2).sum(-1)

    def _with_e(self, e: np.ndarray, k: np.ndarray) -> np.ndarray:
        return self._line(np.broadcast_to(e, k.shape)[..., None], self._decay(k), np.full(k.shape, inf))

    def _with_a(self, a: np.ndarray, k: np.ndarray) -> np.ndarray:
        return self._line(a[..., None] * self._decay(k), np.ones((*k.shape, len(self.x))), np.full(k.shape, inf))

    def _with_loss(self, loss: np.ndarray, k: np.ndarray, x: float) -> np.ndarray:
        there = np.exp(-k * (x / self.span))
        return self._line(np.broadcast_to(loss, k.shape)[..., None], self._decay(k) - there[..., None], loss / there)

    def _line(self, fixed: np.ndarray, column: np.ndarray, most: np.ndarray) -> np.ndarray:
        """The least sum of squares of 1 - (fixed + t column) / losses over t from 0 to `most` [n, m]."""
        left, column = 1 - fixed / self.losses, column / self.losses
        t = (left * column).sum(-1) / np.maximum((column * column).sum(-1), 1e-300)
        t = np.clip(t, 0.0, most)
        return ((left - t[..., None] * column) ** 2).sum(-1)


def _least(
    squares: Callable[[np.ndarray], np.ndarray], rows: int, rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray]:
    """For each of `rows` problems the steepness [rows, 1] of the least sum of squares, and that sum [rows]."""
    logs = np.broadcast_to(np.linspace(np.log(FLATTEST), np.log(STEEPEST), COARSE), (rows, COARSE))
    reach = logs[0, 1] - logs[0, 0]
    for _ in range(rounds):
        values = squares(np.exp(logs))
        middle = np.take_along_axis(logs, values.argmin(1)[:, None], 1)
        logs = np.clip(middle + np.linspace(-reach, reach, FINE), np.log(FLATTEST), np.log(STEEPEST))
        reach *= 2 / (FINE - 1)
    values = squares(np.exp(logs))
    return np.exp(np.take_along_axis(logs, values.argmin(1)[:, None], 1)), values.min(1)


def _first_above(
    squares: Callable[[np.ndarray], np.ndarray], outwards: np.ndarray, start: float, limit: float, beyond: float
) -> float:
    """Going from `start` along `outwards` (farther and farther), where sums of squares first pass `limit`; `beyond`
    where none does."""
    for _ in range(4):
        is_above = squares(outwards) > limit
        if not is_above.any():
            return beyond
        i = int(is_above.argmax())
        start, end = (start if i == 0 else float(outwards[i - 1])), float(outwards[i])
        outwards = np.linspace(start, end, FINE)[1:]
    return (start + end) / 2
