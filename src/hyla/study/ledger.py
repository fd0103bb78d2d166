"""The ledger: a folder of small result files, one for each finished run. It is the truth; nothing else is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyla.errors import CheckpointError, ConfigError
from hyla.json_files import read_json
from hyla.study.execution import Job
from hyla.study.results import LanguageResult, read_result
from hyla.study.run_key import LanguageRun


@dataclass(frozen=True)
class Ledger:
    """folder: of `*.json`, named by their runs. A run is finished if its file is there."""

    folder: Path

    def file(self, job: Job) -> Path:
        """Of a job, under the label that it was run with. Labels may change; the digest at the end does not."""
        digest = job.name.rpartition("-")[2]
        return next(iter(sorted(self.folder.glob(f"*-{digest}.json"))), self.folder / f"{job.name}.json")

    def has(self, job: Job) -> bool:
        """Whether it is finished."""
        return self.file(job).exists()

    def language(self, job: LanguageRun) -> LanguageResult | None:
        """A run's result, with the job's own label: arms that are one model share a file. None: it is not finished.

        Raises as `results.read_result`, and ConfigError for a file that another run has written.
        """
        file = self.file(job)
        if not file.exists():
            return None
        found = read_result(file)
        said = found.run.model_dump(mode="json")
        for name, value in job.key.items():
            if said.get(name) != value:
                raise ConfigError(
                    f"{file} has the name of {job.told}, but {name} = {said.get(name)!r} in it, not {value!r}: it is "
                    "another run's; move it away"
                )
        assert isinstance(found, LanguageResult)
        return replace(found, run=found.run.model_copy(update={"arm": job.arm}))

    def read(self, job: Job) -> dict[str, Any]:
        """A finished run's file."""
        return read_json(self.file(job))

    def digests(self) -> set[str]:
        """Of the texts that results here were trained on. Broken and foreign files say nothing of that."""
        found = set()
        for file in self.folder.glob("*.json"):
            with suppress(CheckpointError, ConfigError):
                result = read_result(file)
                found |= {result.run.data} if isinstance(result, LanguageResult) else set()
        return found

    def strangers(self, jobs: Sequence[Job]) -> list[str]:
        """Names of files that belong to none of the jobs: of another version, text or plan."""
        mine = {self.file(job).name for job in jobs}
        return sorted(file.name for file in self.folder.glob("*.json") if file.name not in mine)
