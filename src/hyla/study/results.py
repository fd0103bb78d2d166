"""Result files of a study's runs, read with errors that name the file. No PyTorch.

A file is a JSON object: "run" is the key that the result is a function of, the rest is what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.models.config import Config, Count

VERSIONS = {"language": 1, "decode": 1}
"""Of the kinds of runs. Results of another version are no results of this study."""

Share = Annotated[float, Field(ge=0, le=1)]
Bits = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
ByNumber = dict[str, float]


class LanguageFigures(Config):
    """What one training of one arm on language found."""

    flops: Annotated[float, Field(gt=0)]
    """Of the training as it was done, by the cost model."""
    steps: Count
    """Optimizer steps."""
    tokens: Count
    """Training tokens, those of synthetic tasks included."""
    parameters: Count
    """Of the model."""
    validation_bits: Bits | None
    """Bits per byte of the validation text, by which rates are chosen. None: the run diverged."""
    test_bits: Bits | None
    """Bits per byte of the test text, by which arms are compared. None: the run diverged."""
    bits_by_position: ByNumber = Field(default={})
    """By the first position of a bucket (it ends where the next begins), bits per byte of the bytes in it."""
    tasks: dict[str, Share] = Field(default={})
    """By task, the share of right answers of its test split."""
    task_parts: dict[str, dict[str, Share]] = Field(default={})
    """By task of conversations, the share of right answers by kind of question and by age of what is asked for."""
    curve: tuple[tuple[int, int, float | None], ...] = ()
    """(step, tokens, training loss in nats per token); a loss that is None was not finite."""
    layers_inside: dict[str, tuple[float, ...]] = Field(default={})
    """By figure (sink_mass, largest_activation), one number for each layer."""
    seconds: Seconds
    """Of training."""
    evaluation_seconds: Seconds = 0.0
    """Of validation, test and tasks."""
    machine: str
    """What computed it."""
    cache_bytes: dict[str, Annotated[int, Field(ge=0)]] = Field(default={})
    """By the tokens of a context, the bytes that decoding keeps of it, by the cost model."""


class DecodeFigures(Config):
    """How fast one arm decodes."""

    ms_per_token: ByNumber
    """By the tokens of the context, milliseconds of one decoded token of one sequence."""
    cache_bytes: dict[str, Annotated[int, Field(ge=0)]]
    """By the tokens of the context, bytes that are kept of it."""
    machine: str = ""
    """What computed it."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Of the measurement; None: not recorded."""
    seconds: Seconds = 0.0
    """Of the measurement."""


class RunKey(Config):
    """What every run says of itself. What else its result is a function of (`rest`) is the study's business."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["language", "decode"]
    """Of the run."""
    version: int
    """Of its kind."""
    arm: str
    """A label."""
    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    """The mixer of each layer."""
    changes: dict[str, Any] = Field(default={})
    """Fields of the model that differ from the study's, by name."""
    size: dict[str, int]
    """hidden_dim, num_layers and more."""

    @property
    def rest(self) -> dict[str, Any]:
        """Fields that stand in the file and not here."""
        return dict(self.model_extra or {})

    @property
    def size_name(self) -> str:
        """Width and depth, as tables and plots call a size."""
        return f"{self.size['hidden_dim']} x {self.size['num_layers']}"


class LanguageKey(RunKey):
    budget: Annotated[float, Field(gt=0)]
    """FLOPs that were asked for."""
    rate: Annotated[float, Field(gt=0)]
    """Learning rate."""
    seed: Annotated[int, Field(ge=0)]
    """Start values and order of the data; of equal seeds all arms have the same order."""
    data: str
    """Digest of the texts and tasks."""


@dataclass(frozen=True)
class LanguageResult:
    """One training of one arm. name: of its file, without the ending."""

    name: str
    run: LanguageKey
    figures: LanguageFigures


@dataclass(frozen=True)
class DecodeResult:
    """One measurement of one arm's decoding. name: of its file, without the ending."""

    name: str
    run: RunKey
    figures: DecodeFigures


AnyResult = LanguageResult | DecodeResult


def read_results(folder: Path) -> list[AnyResult]:
    """All result files of a folder (`*.json`), in the order of their names. Raises as `read_result`."""
    return [read_result(file) for file in sorted(folder.glob("*.json"))]


def read_result(file: Path) -> AnyResult:
    """One result file.

    Raises CheckpointError for a file that is missing or no JSON object, and ConfigError for one of another version, of
    another kind, or with keys that are missing, unknown or out of range. Both name the file.
    """
    try:
        found = read_json(file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or take it away: its run is repeated then") from None
    run = found.pop("run", None)
    if not isinstance(run, dict):
        raise CheckpointError(f"{file} has no table 'run', so it is no result of a study; move it elsewhere")
    kind, version = run.get("kind"), run.get("version")
    if kind not in VERSIONS:
        raise ConfigError(f"{file}: a run of kind {kind!r}; a study has {', '.join(VERSIONS)}")
    if version != VERSIONS[kind]:
        raise ConfigError(
            f"{file}: a run of version {version!r}, and this Hyla's are of version {VERSIONS[kind]}; results of two "
            "versions are not compared: report it with the version that made it, or move it away and run it again"
        )
    try:
        if kind == "language":
            return LanguageResult(file.stem, LanguageKey(**run), LanguageFigures(**found))
        return DecodeResult(file.stem, RunKey(**run), DecodeFigures(**found))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
