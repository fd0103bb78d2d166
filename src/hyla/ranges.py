"""Names for the parts of a step, to be seen in a profiler: off by default, and then they cost nothing.

A `Trace` records them with PyTorch's profiler and writes a file for chrome://tracing or ui.perfetto.dev. Under another
profiler, `show_ranges(True)` is enough.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

_NOTHING = nullcontext()
_is_shown = False


def show_ranges(shown: bool) -> None:
    """Whether named ranges are recorded, in this process."""
    global _is_shown
    _is_shown = shown


def named_range(*name: object) -> AbstractContextManager:
    """A range of this name, its parts joined by spaces, around a block of code.

    >>> with named_range("sublayer", 3, "kda"):
    ...     pass
    """
    if not _is_shown:
        return _NOTHING
    from torch.profiler import record_function

    return record_function(" ".join(map(str, name)))


class Trace:
    """A recording of what this thread computes from `start` to `finish`, written to a file as a Chrome trace.

    Both must be called on the thread that computes; PyTorch has one recording at a time. The file appears at `finish`.
    """

    def __init__(self, file: Path | str):
        self.file = Path(file)
        self._profiler = None
        self._thread = 0

    @property
    def is_running(self) -> bool:
        return self._profiler is not None

    def start(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
        self._profiler, self._thread = profile(activities=activities), threading.get_ident()
        self._profiler.start()
        show_ranges(True)

    def finish(self) -> None:
        """End the recording and write it; nothing when none runs. Raises OSError where the file cannot be written, and
        RuntimeError on another thread than that of `start`."""
        if self._profiler is None:
            return
        if self._thread != threading.get_ident():
            raise RuntimeError("a trace is finished on the thread that started it")
        show_ranges(False)
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.file))
