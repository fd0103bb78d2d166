"""Figures of a run for viewers: TensorBoard and trackio. All that they get is in the run's own files, too."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from hyla.errors import ConfigError
from hyla.json_files import read_json
from hyla.train.files import replace_json
from hyla.train.metrics import HeldoutMetrics, StepMetrics, SublayerStatistics

TENSORBOARD_FOLDER = "tensorboard"
TRACKIO_FILE, TRACKIO_PROJECT = "trackio.json", "hyla"
Line = StepMetrics | HeldoutMetrics | SublayerStatistics


@dataclass(frozen=True)
class Named:
    """What one line says, by names of the form "group/figure"."""

    step: int
    figures: Mapping[str, float]
    texts: Mapping[str, str]


def named(line: Line) -> Named:
    """A line of the run's files, flat."""
    found: dict[str, Any]
    if isinstance(line, SublayerStatistics):
        group, found = f"layer_{line.sublayer:02}_{line.kind}", dict(line.figures)
    else:
        group, found = ("train" if isinstance(line, StepMetrics) else "heldout"), asdict(line)
        found.pop("step")
    figures: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, value in found.items():
        if isinstance(value, float | int):
            figures[f"{group}/{name}"] = float(value)
        elif isinstance(value, str):
            texts[f"{group}/{name}"] = value
        elif name == "samples":
            for place, sample in enumerate(value):
                texts[f"{group}/sample_{place}"] = f"{sample['prompt']} → {sample['text']}"
        elif value is not None:
            figures |= {f"{group}/{name}_{place}": float(one) for place, one in enumerate(value)}
    return Named(line.step, figures, texts)


class Reporter(Protocol):
    """One viewer's copy of a run."""

    def start(self, step: int, history: Iterable[Named]) -> None:
        """What comes now comes after `step`: figures of later steps are wrong from here on. history: those up to it."""
        ...

    def log(self, line: Named) -> None: ...

    def flush(self) -> None:
        """Called whenever a checkpoint was written: a run that is killed later goes on from there."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `RUN/tensorboard`, for `tensorboard --logdir RUN` or a folder of runs."""

    def __init__(self, folder: Path):
        self._folder, self._writer = folder / TENSORBOARD_FOLDER, None

    def start(self, step: int, history: Iterable[Named]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        # TensorBoard leaves out what it read before of the steps from purge_step on.
        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)

    def log(self, line: Named) -> None:
        assert self._writer is not None
        for name, value in line.figures.items():
            self._writer.add_scalar(name, value, line.step)
        for name, text in line.texts.items():
            self._writer.add_text(name, "\n".join(f"    {part}" for part in text.split("\n")), line.step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """A run of the project "hyla" where trackio keeps its data. Texts (samples, spikes) stay in the run's own files.

    trackio cannot take back single steps, so that a run that goes on is deleted there and told again from its files.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self._config, self._run = config, None
        self.name = _trackio_name(folder)

    def start(self, step: int, history: Iterable[Named]) -> None:
        trackio = import_module("trackio")
        self.close()
        with redirect_stdout(StringIO()):  # it greets at length
            self._delete(trackio)
            self._run = trackio.init(
                TRACKIO_PROJECT,
                name=self.name,
                config=dict(self._config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        for line in history:
            self.log(line)

    def _delete(self, trackio) -> None:
        """Remove what an earlier process, or this one, told of the run."""
        try:
            runs = list(trackio.Api().runs(TRACKIO_PROJECT))
        except ValueError:  # no run of the project yet
            return
        for run in runs:
            if run.name == self.name:
                run.delete()

    def log(self, line: Named) -> None:
        assert self._run is not None
        if line.figures:
            self._run.log(dict(line.figures), step=line.step)

    def flush(self) -> None:
        """It writes by itself, twice a second."""

    def close(self) -> None:
        if self._run is not None:
            trackio = import_module("trackio")
            with redirect_stdout(StringIO()):
                trackio.finish()
            self._run = None


def _trackio_name(folder: Path) -> str:
    """The run's name there, drawn once and kept in the run's folder: folders of one name are not one run."""
    file = folder / TRACKIO_FILE
    if not file.exists():
        replace_json(file, {"project": TRACKIO_PROJECT, "run": f"{folder.name}-{secrets.token_hex(3)}"})
    return read_json(file)["run"]


class Reports:
    """All viewers of a run; none is usual."""

    def __init__(self, reporters: Sequence[Reporter] = ()):
        self._reporters = reporters

    def start(self, step: int, *files: Iterable[Line]) -> None:
        """Begin, or go on after `step`, whose lines and those before it are in files."""
        if self._reporters:
            history = sorted((named(line) for lines in files for line in lines), key=lambda line: line.step)
            for reporter in self._reporters:
                reporter.start(step, history)

    def log(self, *lines: Line) -> None:
        for reporter in self._reporters:
            for line in lines:
                reporter.log(named(line))

    def flush(self) -> None:
        for reporter in self._reporters:
            reporter.flush()

    def close(self) -> None:
        for reporter in self._reporters:
            reporter.close()


def check_reporters(names: Sequence[str]) -> None:
    """Raise ConfigError for a viewer whose package is missing. Called before anything is prepared."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"train.report names {name}, which is not installed; run: pip install 'hyla[{name}]', or leave it out"
            )


def reports_of(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> Reports:
    """The viewers of a run. config: shown beside its figures. Raises ConfigError as `check_reporters`."""
    check_reporters(names)
    reporters: list[Reporter] = []
    if "tensorboard" in names:
        reporters.append(TensorBoard(folder))
    if "trackio" in names:
        reporters.append(Trackio(folder, config))
    return Reports(reporters)
