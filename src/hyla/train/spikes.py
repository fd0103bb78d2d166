"""Steps that go wrong: how they are noticed. What is done about them, the loop says."""

from __future__ import annotations

import math
import statistics
from collections import deque

from hyla.train.config import SpikeConfig


class SpikeWatch:
    """Compares a step's gradient with those of the steps before it, which a resumed run reads from its own lines."""

    def __init__(self, config: SpikeConfig):
        self._config = config
        self._norms: deque[float] = deque(maxlen=config.window)
        self.count = 0
        """Spikes of the whole run."""

    def forget(self) -> None:
        """As before a first step; the count stays."""
        self._norms.clear()

    def accept(self, norm: float) -> None:
        """A step's gradient norm was as it should be."""
        self._norms.append(norm)

    def fault(self, loss: float, norm: float) -> str | None:
        """What is wrong with a step, in words; None for nothing."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"loss {loss}, gradient norm {norm}"
        if self._config.factor is None or len(self._norms) < self._config.window:
            return None
        usual = statistics.median(self._norms)
        if norm <= self._config.factor * usual:
            return None
        return f"gradient norm {norm:.4g}, more than {self._config.factor:g} times the last median, {usual:.4g}"
