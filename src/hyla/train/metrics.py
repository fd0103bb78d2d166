"""JSON lines that belong to steps, in files that a killed run leaves in order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from hyla.errors import CheckpointError
from hyla.train.files import whole_lines, writing
from hyla.whole_files import write_whole


@dataclass(frozen=True)
class StepMetrics:
    """step: finished optimizer steps, from 1. loss: nats per learnt token before the update, of the next token alone.
    learning_rate: AdamW's. grad_norm: before clipping. tokens, seconds: of the whole run, resumed parts included.
    mtp_loss, z_loss: without their weights, 0 where they have none. preferred, margin: of preference optimisation, the
    share of pairs that moved the right way, and how far. expert_load: tokens of the busiest expert, in
    multiples of the mean, the worst of all mixtures. indexer_loss: nats between index scores and what attention reads,
    summed over layers, 0 where none learn. memory_bytes, peak_memory_bytes: after the step, of the process on the CPU,
    of its tensors on another device; the peak is that of this process, not of the run. spike: why the step was left
    out; None: it was not."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float
    mtp_loss: float | None = None
    z_loss: float | None = None
    preferred: float | None = None
    margin: float | None = None
    expert_load: float | None = None
    memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    indexer_loss: float | None = None
    spike: str | None = None


@dataclass(frozen=True)
class Sample:
    """The beginning of a held-out document, and what the model thinks is likeliest to follow."""

    prompt: str
    text: str


@dataclass(frozen=True)
class HeldoutMetrics:
    """What the model knew of held-out text after `step` steps: nats per token, over how many, and what it wrote."""

    step: int
    loss: float
    tokens: int
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class SublayerStatistics:
    """One sublayer after `step` steps, on the first rows of that step; the head comes last, as kind "head".

    figures: numbers, or lists of quantiles, by name (docs/training-progress.md)."""

    step: int
    sublayer: int
    kind: str
    figures: Mapping[str, float | list[float]]


class HasStep(Protocol):
    """A dataclass that says how many steps came before it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def step(self) -> int: ...


Line = TypeVar("Line", bound=HasStep)


class StepLines(Generic[Line]):
    """Appends lines; floats are written so that reading gives the same bits."""

    def __init__(self, path: Path, kind: type[Line]):
        self.path, self.kind = path, kind

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that the checkpoint of `step` does not contain: they are computed again.

        Raises CheckpointError for a line that is damaged.
        """
        if not self.path.exists():
            return
        lines = whole_lines(self.path.read_bytes())
        kept = [line for number, line in enumerate(lines, start=1) if self._parsed(line, number).step <= step]
        with writing(self.path):
            write_whole(self.path, "".join(kept))

    def append(self, *lines: Line) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(line)) + "\n" for line in lines))

    def read(self) -> list[Line]:
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().decode("utf-8", "replace").splitlines()
        return [self._parsed(line, number) for number, line in enumerate(lines, start=1)]

    def _parsed(self, line: str, number: int) -> Line:
        try:
            return self.kind(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}, line {number} is damaged ({error}); remove that line, no step depends on it"
            ) from None
