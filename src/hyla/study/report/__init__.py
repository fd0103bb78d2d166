"""From a study's result files to `report.md`, `results.csv` and plots. No PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyla.study.report.about import About, Claim, Published, RateSearch, read_claim
from hyla.study.report.findings import Findings, findings_of
from hyla.study.report.learnt import AboutSynthetic, Learnt
from hyla.study.report.synthetic import write_synthetic_report
from hyla.study.results import AnyResult
from hyla.train.files import writing
from hyla.whole_files import write_whole

__all__ = [
    "About",
    "AboutSynthetic",
    "Claim",
    "Findings",
    "Learnt",
    "Published",
    "RateSearch",
    "findings_of",
    "read_claim",
    "write_report",
    "write_synthetic_report",
]


def write_report(folder: Path, about: About, results: Sequence[AnyResult]) -> Findings:
    """Write `report.md`, `results.csv` and the plots into a folder, which is made.

    results: of the study, in any number: the report of a study that is not finished says what is missing. The same
    results give the same bytes. Returns what was found.

    Raises ConfigError for results that do not belong together, CheckpointError for what the disk refuses.
    """
    from hyla.study.report.page import markdown
    from hyla.study.report.plots import draw
    from hyla.study.report.sections.runs import to_csv

    found = findings_of(about, results)
    with writing(folder / "report.md"):
        folder.mkdir(parents=True, exist_ok=True)
        drawn = draw(found, folder)
        write_whole(folder / "results.csv", to_csv(found))
        write_whole(folder / "report.md", markdown(found, drawn))
    return found
