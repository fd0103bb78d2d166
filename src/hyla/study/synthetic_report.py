"""The report of a synthetic study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hyla.evals.synthetic.learning import Result
from hyla.evals.synthetic.plots import draw
from hyla.evals.synthetic.report import markdown, rows
from hyla.study.plan import SyntheticStudy
from hyla.train.files import writing
from hyla.whole_files import write_whole


def write_synthetic_report(folder: Path, name: str, study: SyntheticStudy, results: Mapping[str, Result]) -> Path:
    """`report.md` and its plots, of the runs that are finished. Returns the page."""
    found = rows(study.plan, results)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.md"
    with writing(page):
        draw(found, folder)
        write_whole(page, f"# {name}\n\n{study.question}\n\n{study.notes}\n\n{markdown(study.plan, found)}")
    return page
