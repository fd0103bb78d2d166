"""What of a language study is to be done next: rates first, then the runs that count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hyla.errors import ConfigError
from hyla.study.ledger import Ledger
from hyla.study.plan import LanguageStudy
from hyla.study.run_key import FLOPS_TOLERANCE, LanguageRun
from hyla.study.text import read_text
from hyla.study.tuning import Tuned, next_rates, rate_at


@dataclass
class Progress:
    """Of a study, from its ledger alone.

    tuning, final: all runs that are known by now, finished or not. tuned: by arm and budget; only arms whose rates are
    chosen. untuned: names of the others.
    """

    tuning: list[LanguageRun] = field(default_factory=list)
    final: list[LanguageRun] = field(default_factory=list)
    tuned: dict[str, dict[float, Tuned]] = field(default_factory=dict)
    untuned: set[str] = field(default_factory=set)

    @property
    def is_tuned(self) -> bool:
        """Whether all rates are chosen."""
        return not self.untuned

    def missing(self, ledger: Ledger) -> list[LanguageRun]:
        """What is to be run now: rates while they are not chosen, then all else."""
        runs = self.final if self.is_tuned else self.tuning
        return list(distinct(run for run in runs if not ledger.has(run)))

    def known(self) -> list[LanguageRun]:
        """Whose rates are chosen: runs that count, and those that rates are chosen by."""
        return [*(run for run in self.final if run.arm not in self.untuned), *self.tuning]


def distinct(runs: Iterable[LanguageRun]) -> Iterable[LanguageRun]:
    """Arms that are one model have one run, of the first of them."""
    by_digest: dict[str, LanguageRun] = {}
    for run in runs:
        by_digest.setdefault(run.digest, run)
    return by_digest.values()


def progress(study: LanguageStudy, ledger: Ledger, data: str | None = None) -> Progress:
    """Where a study stands. data: digest of another text than the one that is here (`Ledger.digests`).

    Raises ConfigError for arms that cannot be matched, before anything is run.
    """
    found, data = Progress(), data or read_text(study.text).digest
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
                    found.final.append(run)
    _check_matched(found.final, study.reference)
    return found


def _check_matched(runs: Sequence[LanguageRun], reference: str) -> None:
    """Raise ConfigError where an arm's FLOPs are not the reference's: both may be within 1% of the budget, and yet
    further from each other."""
    flops = {(run.budget, run.seed, run.arm, run.size): run.flops for run in runs}
    for (budget, seed, arm, _), found in flops.items():
        for (*same, name, _), wanted in flops.items():
            if name == reference and same == [budget, seed] and abs(found / wanted - 1) > FLOPS_TOLERANCE:
                raise ConfigError(
                    f"arm {arm!r} cannot be matched at budget {budget:g}: it would cost {found:.4g} FLOPs and "
                    f"{reference!r} {wanted:.4g}, which is more than {FLOPS_TOLERANCE:.0%} apart; make the budget "
                    "larger or batch_tokens smaller"
                )


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
                    found.untuned.add(arm.name)
                    break
                bits |= {rate: result.figures.validation_bits for rate, result in zip(rates, results) if result}
            else:
                found.tuned.setdefault(arm.name, {})[budget] = Tuned(arm.name, budget, bits)
