"""The report of a synthetic study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hyla.evals.synthetic.results import Result
from hyla.study import report
from hyla.study.plan import SyntheticStudy
from hyla.study.report import AboutSynthetic


def write_synthetic_report(folder: Path, name: str, study: SyntheticStudy, results: Mapping[str, Result]) -> Path:
    """Page, CSV and plots of the runs that are finished. Returns the page."""
    about = AboutSynthetic(
        name=name,
        question=study.question,
        plan=study.plan,
        must_learn=study.must_learn,
        learnt_at=study.learnt_at,
        notes=study.notes,
        published=study.published,
    )
    report.write_synthetic_report(folder, about, results)
    return folder / "report.md"
