"""An engine's numbers for whoever asks, from a process that may not answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from hyla.engine.clock import monotonic
from hyla.errors import HylaError

STATUS_SECONDS = 5.0
"""How long one waits for the process before it is told what was known last."""


class LastStatus:
    """The numbers that came last, and the call for new ones. However many ask, the process is asked once; who asks
    later than STATUS_SECONDS after that waits no more.

    ask: calls the process; raises HylaError where there is none. first: the numbers of its start.
    """

    def __init__(self, ask: Callable[[], Future], first: dict):
        self.numbers = first
        self._ask = ask
        self._asked: Future | None = None
        self._asked_at = 0.0

    def refresh(self) -> bool:
        """Ask for new numbers, and wait for them for a while. False: there are none."""
        try:
            asked = self._asked
            if asked is None or asked.done():
                asked = self._asked = self._ask()
                self._asked_at = monotonic()
            self.numbers = asked.result(max(0.0, self._asked_at + STATUS_SECONDS - monotonic()))
        except (HylaError, TimeoutError):
            return False
        return True
