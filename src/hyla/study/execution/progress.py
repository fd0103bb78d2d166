"""How a run says where it is, and learns that it should stop: through files in its work folder. No PyTorch.

Files, since a run may be in another process, and since what carries it out need not know what it is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hyla.whole_files import partial_name

PROGRESS_FILE, STOP_FILE = "progress.json", "stop"
TELL_SECONDS = 1.0
"""Between two writes of the file."""


class Stopped(Exception):
    """A run was asked to stop and did; what it has is in its work folder, and the next call goes on from there."""


@dataclass(frozen=True)
class Step:
    """step: finished ones of `steps`. tokens: read in them. tokens_per_second: since it was told before; None: at the
    first time in a process."""

    step: int
    steps: int
    tokens: int
    tokens_per_second: float | None = None


class Progress:
    """One run's side, used by the function that carries it out.

    >>> progress = Progress(work_folder)                                           # doctest: +SKIP
    >>> trainer.run(lambda line: progress.tell(line.step, steps, line.tokens), progress.is_stopped)  # doctest: +SKIP
    >>> if trainer.finished_steps < steps: raise Stopped                           # doctest: +SKIP
    """

    def __init__(self, work_folder: Path, clock: Callable[[], float] = time.monotonic):
        """work_folder: is there. clock: seconds."""
        self._file, self._stop, self._clock = work_folder / PROGRESS_FILE, work_folder / STOP_FILE, clock
        self._last: tuple[float, int] | None = None
        """When the file was written, and the tokens then."""

    def tell(self, step: int, steps: int, tokens: int) -> None:
        """After a step. Costs a file a second, whatever the steps take. Raises OSError for what the disk refuses."""
        now, speed = self._clock(), None
        if self._last is not None:
            since, before = self._last
            if now - since < TELL_SECONDS and step < steps:
                return
            speed = (tokens - before) / max(now - since, 1e-9)
        self._last = now, tokens
        partial = partial_name(self._file)
        partial.write_text(json.dumps(asdict(Step(step, steps, tokens, speed))))
        os.replace(partial, self._file)

    def is_stopped(self) -> bool:
        """Whether the run should stop after this step."""
        return self._stop.exists()


def read_step(work_folder: Path) -> Step | None:
    """What a run told last; None: nothing yet."""
    try:
        return Step(**json.loads((work_folder / PROGRESS_FILE).read_text()))
    except FileNotFoundError:
        return None


def ask_to_stop(work_folder: Path) -> None:
    """Let the run in the folder see that it should stop. A folder that is gone has none."""
    try:
        (work_folder / STOP_FILE).touch()
    except FileNotFoundError:
        return


def forget(work_folder: Path) -> None:
    """Before a run begins or goes on: what an earlier process was told, and told."""
    for name in (PROGRESS_FILE, STOP_FILE):
        (work_folder / name).unlink(missing_ok=True)
