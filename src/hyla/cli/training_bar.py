"""What a training run shows while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from hyla.cli.console import console, describe_bytes, describe_seconds
from hyla.train.metrics import HeldoutMetrics, StepMetrics
from hyla.train.utilisation import Utilisation

SMOOTHING = 0.9
"""Weight of the past in the shown loss and speed."""
SHOWN_CHARS = 300
"""Of a sample's text."""
BAR_WIDTH = 12
BESIDE = BAR_WIDTH + 4
"""Columns of a terminal that the bar takes, and what stands between it, the numbers of steps and the facts."""


class TrainingBar:
    """Loss, speed, MFU, memory, held-out loss and time left of a run; one line on a terminal, a line now and then
    elsewhere."""

    def __init__(
        self,
        progress: Progress,
        steps: int,
        *,
        total_tokens: int | None = None,
        utilisation: Callable[[], Utilisation | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """total_tokens: of the whole run; None: as many a step as so far. utilisation: called
        once, before a first step."""
        self.progress, self.steps, self.total_tokens = progress, steps, total_tokens
        self._measure, self._clock = utilisation, clock
        self.utilisation: Utilisation | None = None
        self.task = progress.add_task("training", total=steps, facts="")
        self._loss = self._speed = None
        self._heldout: float | None = None
        self._last: StepMetrics | None = None
        self._shown_left = ""
        self._begun: tuple[float, int] | None = None
        """Time and tokens at the first step that was seen: what is left is told from there."""

    def resumed(self, step: int) -> None:
        if step:
            console.print(f"continuing after step {step} of {self.steps}")
            self.progress.update(self.task, completed=step)
        if step < self.steps:
            self.utilisation = self._measure()
            if self.utilisation is not None:
                console.print(str(self.utilisation), soft_wrap=True)

    def __call__(self, metrics: StepMetrics) -> None:
        self._last = metrics
        self._loss = self._smooth(self._loss, metrics.loss)
        self._speed = self._smooth(self._speed, metrics.tokens_per_second)
        facts, left = self._facts(metrics), self._left(metrics)
        if not console.is_terminal:
            if metrics.step % max(1, self.steps // 10) == 0:
                console.print(
                    ", ".join([f"step {metrics.step} of {self.steps}: {facts[0]}", *facts[1:], left]), soft_wrap=True
                )
            return
        self._shown_left = left.removeprefix("about ")
        self._show(facts, metrics.step)

    def _show(self, facts: list[str], step: int) -> None:
        width = console.width - BESIDE - 2 * len(str(self.steps))
        self.progress.update(self.task, completed=step, facts=fitting([*facts, self._shown_left], width))

    def heldout(self, metrics: HeldoutMetrics) -> None:
        """A score along the way, and how the model goes on with the beginnings of held-out documents."""
        self._heldout = metrics.loss
        console.print(
            f"step {metrics.step}: held-out loss {metrics.loss:.3f} over {metrics.tokens:,} tokens", soft_wrap=True
        )
        for sample in metrics.samples:
            console.print(f"  {on_one_line(sample.prompt, keep_end=True)} → {on_one_line(sample.text)}", soft_wrap=True)
        if console.is_terminal and self._last is not None:
            self._show(self._facts(self._last), self._last.step)

    def _facts(self, metrics: StepMetrics) -> list[str]:
        facts = [f"loss {self._loss:.3f}"]
        facts.append(f"{self._speed:,.0f} tokens/s")
        if self._heldout is not None and console.is_terminal:
            facts.append(f"held out {self._heldout:.3f}")
        if self.utilisation is not None and self._speed is not None:
            facts.append(f"MFU {self.utilisation.share(self._speed):.0%}")
        if metrics.memory_bytes is not None and metrics.peak_memory_bytes is not None:
            now, peak = describe_bytes(metrics.memory_bytes), describe_bytes(metrics.peak_memory_bytes)
            facts.append(now if now == peak else f"{now}, at most {peak}")
        return facts

    def _left(self, metrics: StepMetrics) -> str:
        """Told from all that this process did, scores and checkpoints included, once there is a second step."""
        now = self._clock()
        if metrics.step == self.steps:
            return "done"
        if self._begun is None:
            self._begun = now, metrics.tokens
            return f"{self.steps - metrics.step} steps left"
        since, tokens = self._begun
        total = self.total_tokens or metrics.tokens * self.steps / metrics.step
        seconds = (now - since) * (total - metrics.tokens) / max(1, metrics.tokens - tokens)
        return f"about {describe_seconds(seconds)} left"

    @staticmethod
    def _smooth(old: float | None, new: float) -> float:
        return new if old is None else SMOOTHING * old + (1.0 - SMOOTHING) * new


def fitting(facts: list[str], width: int) -> str:
    """The facts that fit on a line of so many characters: the first, the last (the time left), then those between.

    >>> fitting(["loss 2.100", "900 tokens/s", "MFU 12%", "about 7 s left"], 45)
    'loss 2.100 · 900 tokens/s · about 7 s left'
    >>> fitting(["loss 2.100", "900 tokens/s", "MFU 12%", "about 7 s left"], 5)
    'loss 2.100'
    """
    first, *between, last = facts
    chosen, used = [first], len(first)
    if used + 3 + len(last) > width:
        return first
    used += 3 + len(last)
    for fact in between:
        if used + 3 + len(fact) > width:
            continue
        chosen.append(fact)
        used += 3 + len(fact)
    return " · ".join([*chosen, last])


def on_one_line(text: str, *, keep_end: bool = False) -> str:
    r"""A text as part of a line, cut at SHOWN_CHARS.

    >>> on_one_line("def f():\n    pass")
    'def f():⏎    pass'
    """
    text = text.replace("\r\n", "\n").replace("\n", "⏎")
    if len(text) <= SHOWN_CHARS:
        return text
    return "…" + text[-SHOWN_CHARS:] if keep_end else text[:SHOWN_CHARS] + "…"


@contextmanager
def training_bar(
    steps: int,
    *,
    total_tokens: int | None = None,
    utilisation: Callable[[], Utilisation | None] = lambda: None,
) -> Iterator[TrainingBar]:
    """A live `TrainingBar` for a run of so many steps."""
    columns = (
        BarColumn(bar_width=BAR_WIDTH),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield TrainingBar(progress, steps, total_tokens=total_tokens, utilisation=utilisation)
