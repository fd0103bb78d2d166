"""What is carried out, by what, and how one try of a run ends. No PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from hyla.errors import ConfigError
from hyla.study.execution.progress import Step

Execute = Callable[[Any, Path], dict[str, Any]]
"""(job, its work folder) -> its result."""
OnStep = Callable[[str, Step], None]
"""(a job's name, where its run is)."""


class Job(Protocol):
    """A run that can be carried out anywhere: it can be pickled, and its result depends on nothing else."""

    @property
    def name(self) -> str:
        """Of its files; no two jobs of a study share one."""
        ...

    @property
    def told(self) -> str:
        """What it is, in a line."""
        ...


@dataclass(frozen=True)
class Ending:
    """Of one try. result: where it is finished. error, trace: where it failed, in a line and in full. died: the process
    did, not only the run. is_final: another try would fail as well, since what was asked for cannot be."""

    kind: Literal["finished", "stopped", "failed"]
    result: dict[str, Any] | None = None
    error: str = ""
    trace: str = ""
    died: bool = False
    is_final: bool = False


@dataclass(frozen=True)
class Try:
    """A job, the folder that it works in, and whether what earlier tries left there is thrown away first."""

    job: Job
    work: Path
    is_anew: bool = False


class Pool(Protocol):
    """What tries of runs go to."""

    @property
    def num_free(self) -> int:
        """How many more may be started now."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether any try has not ended."""
        ...

    def start(self, one: Try) -> None: ...

    def wait(self, on_step: OnStep, is_stopped: Callable[[], bool]) -> list[tuple[str, Ending]]:
        """Names and endings of tries, after a while perhaps none.

        on_step: called along the way, from any thread. When is_stopped is true, all that run are asked to stop.
        """
        ...

    def close(self) -> None:
        """End what still runs, at once."""
        ...


def function_at(path: str) -> Execute:
    """The function with a path, "package.module:name". Raises ConfigError where there is none."""
    module, _, name = path.partition(":")
    try:
        found: Execute = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"execute = {path!r} names no function: {error}; give 'package.module:name'") from error
    if callable(found):
        return found
    raise ConfigError(f"execute = {path!r} is a {type(found).__name__}; give the path of a function")
