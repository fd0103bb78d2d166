"""A trace of an engine's first steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hyla.ranges import Trace, named_range

logger = logging.getLogger(__name__)


class StepProfile:
    """Records steps into a Chrome trace, the first `num_steps` of them. file: None: none at all."""

    def __init__(self, file: str | None, num_steps: int):
        self._trace = Trace(file) if file is not None else None
        self._num_left = num_steps

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step."""
        if self._trace is None:
            yield
            return
        if not self._trace.is_running:
            self._trace.start()
        with named_range("step"):
            yield
        self._num_left -= 1
        if not self._num_left:
            self.finish()

    def finish(self) -> None:
        """Write what was recorded, and record nothing more. On the thread that steps."""
        trace, self._trace = self._trace, None
        if trace is None or not trace.is_running:
            return
        try:
            trace.finish()
        except (OSError, RuntimeError) as error:  # no reason to end anybody's request
            logger.warning("the trace could not be written to %s: %s", trace.file, error)
        else:
            logger.info("the trace is in %s", trace.file)
