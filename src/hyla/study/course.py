"""The course of a study in its folder: what is to be run now, and what its report says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hyla.evals.synthetic.attempts import attempts, finished, known_runs
from hyla.evals.synthetic.learning import Result, read_result
from hyla.evals.synthetic.plan import Run
from hyla.study.decoding import measure, measured
from hyla.study.execution import Job
from hyla.study.execution.execute import RESULTS
from hyla.study.ledger import Ledger
from hyla.study.plan import LanguageStudy, SyntheticStudy
from hyla.study.report import About, write_report
from hyla.study.results import AnyResult
from hyla.study.stages import Progress, distinct, progress
from hyla.study.synthetic_report import write_synthetic_report
from hyla.study.text import read_text


class CostedJob(Job, Protocol):
    """A run whose cost is known beforehand."""

    @property
    def flops(self) -> float:
        """Of its training, by the cost model."""
        ...


class Course(Protocol):
    """A study of any kind, in its folder."""

    execute: str
    """Path of the function that does a run."""

    @property
    def ledger(self) -> Ledger:
        """Of its results."""
        ...

    def missing(self) -> Sequence[CostedJob]:
        """Runs to be done now; none: all are finished."""
        ...

    def all_jobs(self) -> Sequence[CostedJob]:
        """All that are known by now."""
        ...

    def strangers(self) -> list[str]:
        """Names of files in `runs/` that belong to nothing of the study as it is now."""
        ...

    @property
    def num_unknown(self) -> int:
        """Runs whose learning rate is not chosen yet."""
        ...

    def measure(self) -> None:
        """What is measured once all runs are finished."""
        ...

    @property
    def other_text(self) -> str | None:
        """Digest of the text that all results are of, where the text here is another one: the report is of theirs."""
        ...

    def report(self) -> Path:
        """Write the report of what there is; its page."""
        ...


@dataclass
class LanguageCourse:
    """Of arms that learn language. name: of the study."""

    study: LanguageStudy
    folder: Path
    name: str
    execute: str = "hyla.study.language:execute"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / RESULTS)

    def missing(self) -> Sequence[CostedJob]:
        return progress(self.study, self.ledger).missing(self.ledger)

    def all_jobs(self) -> Sequence[CostedJob]:
        found = progress(self.study, self.ledger)
        return list(distinct([*found.tuning, *found.final]))

    def strangers(self) -> list[str]:
        timed = {f"{result.name}.json" for result in measured(self.study, self.ledger)}
        return [name for name in self.ledger.strangers(self.all_jobs()) if name not in timed]

    @property
    def num_unknown(self) -> int:
        found = progress(self.study, self.ledger)
        return 0 if found.is_tuned else len(found.final)

    def measure(self) -> None:
        """Time of a decoded token, of all arms in turns."""
        if self.study.decode_contexts and not self._is_timed:
            measure(self.study, self.ledger)

    @property
    def _is_timed(self) -> bool:
        """Whether all arms are, as the study says now."""
        return len(measured(self.study, self.ledger)) == len(self.study.all_arms)

    @property
    def other_text(self) -> str | None:
        digests = self.ledger.digests()
        return min(digests) if len(digests) == 1 and read_text(self.study.text).digest not in digests else None

    def report(self) -> Path:
        found = progress(self.study, self.ledger, self.other_text)
        results: list[AnyResult] = [result for job in found.known() if (result := self.ledger.language(job))]
        if self._is_timed:
            results += measured(self.study, self.ledger)
        write_report(self.folder, self.about(found), results)
        return self.folder / "report.md"

    def about(self, found: Progress) -> About:
        """The study as its report sees it."""
        study = self.study
        return About(
            name=self.name,
            question=study.question,
            arms=tuple(arm.name for arm in study.all_arms),
            reference=study.reference,
            budgets=tuple(sorted(point.budget for point in study.points)),
            seeds=study.seeds,
            sizes={point.budget: len(point.sizes) for point in study.points},
            tuned=tuple(tuned for by_budget in found.tuned.values() for tuned in by_budget.values()),
            notes=study.notes,
            learnt_at=study.learnt_at,
            published=study.published,
            is_ablation=study.is_ablation,
            noise=study.noise,
            has_tuning=study.tuning is not None,
        )


@dataclass
class SyntheticCourse:
    """Of arms that learn tasks from scratch."""

    study: SyntheticStudy
    folder: Path
    name: str
    execute: str = "hyla.study.synthetic:execute"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / RESULTS)

    def missing(self) -> list[Run]:
        results = self._results()
        return [run for run in known_runs(self.study.plan, results) if run.name not in results]

    def all_jobs(self) -> list[Run]:
        found = attempts(self.study.plan, self._results())
        return list({run.name: run for attempt in found for run in (*attempt.tried, *attempt.counted)}.values())

    def strangers(self) -> list[str]:
        return self.ledger.strangers(self.all_jobs())

    @property
    def num_unknown(self) -> int:
        return sum(attempt.num_unknown for attempt in attempts(self.study.plan, self._results()))

    def _results(self) -> dict[str, Result]:
        """All that are there, by the name of their run."""
        ledger = self.ledger
        return finished(self.study.plan, lambda run: read_result(ledger.file(run)) if ledger.has(run) else None)

    def measure(self) -> None:
        """Nothing: all is in the runs."""

    @property
    def other_text(self) -> None:
        """Tasks are the same everywhere."""

    def report(self) -> Path:
        return write_synthetic_report(self.folder, self.name, self.study, self._results())


def course_of(study: LanguageStudy | SyntheticStudy, folder: Path, name: str) -> Course:
    """A study in its folder."""
    if isinstance(study, LanguageStudy):
        return LanguageCourse(study, folder, name)
    return SyntheticCourse(study, folder, name)
