"""The runs of a plan of synthetic tasks, and what they show while they go on."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from hyla.cli.console import console
from hyla.evals.synthetic.learning import learn
from hyla.evals.synthetic.plan import Plan
from hyla.evals.synthetic.plots import draw
from hyla.evals.synthetic.report import cells, markdown, rows, titles
from hyla.evals.synthetic.results import Result, Score, read_result
from hyla.ops.host_memory import keep_freed_memory
from hyla.train.files import writing
from hyla.whole_files import write_whole


def show(plan: Plan, folder: Path) -> None:
    """Which runs there are, and which are finished."""
    for run in plan.runs():
        done = "finished" if (folder / f"{run.name}.json").exists() else "to do"
        console.print(f"{done:9} {run.name}, at most {run.steps:,} steps of {run.train_config().batch_tokens:,} tokens")


def learn_all(plan: Plan, folder: Path) -> None:
    """One run after the other, then the table, report.md and its plots."""
    keep_freed_memory()
    runs = plan.runs()
    results: dict[str, Result] = {}
    for number, run in enumerate(runs, start=1):
        file = folder / f"{run.name}.json"
        if file.exists():
            results[run.name] = read_result(file)
            continue
        console.print(f"run {number} of {len(runs)}: {run.told}")
        results[run.name] = result = learn(run, folder, _say)
        console.print(f"  best {result.peak:.1%} right, {result.seconds:.0f} s of training", soft_wrap=True)
    found = rows(plan, results)
    table = Table(*titles(plan))
    for row in found:
        table.add_row(*cells(row))
    console.print(table)
    with writing(folder / "report.md"):
        pictures = draw(found, folder)
        write_whole(folder / "report.md", markdown(plan, found))
    names = ", ".join(file.name for file in pictures)
    console.print(f"wrote {folder / 'report.md'}" + (f" and {names}" if names else ""), soft_wrap=True)


def _say(score: Score) -> None:
    console.print(
        f"  step {score.step:,}, {score.tokens:,} tokens: {score.accuracy:.1%} right, "
        f"{score.whole:.1%} of examples without a fault, loss {score.loss:.3f}",
        soft_wrap=True,
    )
