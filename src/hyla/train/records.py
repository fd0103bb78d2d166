"""What a run writes down about itself: lines that belong to steps, events, and what viewers get."""

from __future__ import annotations

from pathlib import Path

from hyla.train.events import EventLog, Kind
from hyla.train.metrics import HeldoutMetrics, StepLines, StepMetrics, SublayerStatistics
from hyla.train.reporters import Reports


class Records:
    """The files of one run, and its viewers. Nothing that is computed depends on them, but for the gradient norms in
    metrics.jsonl, with which spikes are compared."""

    def __init__(self, folder: Path):
        self.steps = StepLines(folder / "metrics.jsonl", StepMetrics)
        self.heldout = StepLines(folder / "heldout.jsonl", HeldoutMetrics)
        self.statistics = StepLines(folder / "statistics.jsonl", SublayerStatistics)
        self.events = EventLog(folder / "events.jsonl")
        self.reports = Reports()

    def go_back_to(self, step: int) -> None:
        """Forget the lines of later steps, which are computed again. Events stay."""
        for lines in (self.steps, self.heldout, self.statistics):
            lines.forget_after(step)

    def start_reports(self, step: int) -> None:
        """Let viewers begin, or go on after `step`."""
        self.reports.start(step, self.steps.read(), self.heldout.read(), self.statistics.read())

    def add(self, line: StepMetrics | HeldoutMetrics) -> None:
        """One line of a step that was taken."""
        if isinstance(line, StepMetrics):
            self.steps.append(line)
        else:
            self.heldout.append(line)
        self.reports.log(line)

    def add_statistics(self, lines: list[SublayerStatistics]) -> None:
        self.statistics.append(*lines)
        self.reports.log(*lines)

    def event(self, step: int, kind: Kind, text: str) -> None:
        """Something happened; step: finished steps."""
        self.events.add(step, kind, text)
