"""What of a language study is to be done next: rates first, then the runs that count."""

from __future__ import annotations

from dataclasses import dataclass, field

from hyla.study.language import LanguageRun
from hyla.study.ledger import Ledger
from hyla.study.plan import LanguageStudy
from hyla.study.text import read_text
from hyla.study.tuning import Tuned, next_rates, rate_at


@dataclass
class Progress:
    """Of a study, from its ledger alone.

    tuning, final: all runs that are known by now, finished or not. tuned: by arm and budget; only arms whose rates are
    chosen. unmatched: arms of which no run can be made, and why.
    """

    tuning: list[LanguageRun] = field(default_factory=list)
    final: list[LanguageRun] = field(default_factory=list)
    tuned: dict[str, dict[float, Tuned]] = field(default_factory=dict)
    is_tuned: bool = True

    def missing(self, ledger: Ledger) -> list[LanguageRun]:
        """What is to be run now: rates while they are not chosen, then all else."""
        runs = self.final if self.is_tuned else self.tuning
        return [run for run in runs if not ledger.has(run)]


def progress(study: LanguageStudy, ledger: Ledger) -> Progress:
    """Where a study stands. Raises ConfigError for arms that cannot be matched, before anything is run."""
    found, data = Progress(), read_text(study.text).digest
    if study.tuning is not None:
        _tune(study, ledger, found, data)
    for seed in study.seeds:
        for point in study.points:
            for size in point.sizes:
                for arm in study.all_arms:
                    rate = study.rate
                    if study.tuning is not None:
                        tuned = found.tuned.get(arm.name, {})
                        guess = study.tuning.rates[0]
                        rate = rate_at(study.tuning, tuned, point.budget)[0] if tuned else guess
                    run = study.run(arm, size, point.budget, rate, seed, data)
                    assert run.steps
                    found.final.append(run)
    return found


def _tune(study: LanguageStudy, ledger: Ledger, found: Progress, data: str) -> None:
    """All runs that rates are chosen by, as far as they are known, and what was chosen."""
    tuning = study.tuning
    assert tuning is not None
    for budget in tuning.budgets:
        size = study.point(budget).sizes[0]
        for arm in study.all_arms:
            bits: dict[float, float | None] = {}
            while rates := next_rates(tuning, bits):
                runs = [study.run(arm, size, budget, rate, tuning.seed, data) for rate in rates]
                found.tuning += runs
                results = [ledger.language(run) for run in runs]
                if any(result is None for result in results):
                    found.is_tuned = False
                    break
                bits |= {rate: result.figures.validation_bits for rate, result in zip(rates, results) if result}
            else:
                found.tuned.setdefault(arm.name, {})[budget] = Tuned(arm.name, budget, bits)
