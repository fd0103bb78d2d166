"""The runs of a plan of synthetic tasks, and what they show while they go on."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from hyla.cli.console import console
from hyla.evals.synthetic.attempts import attempts, finished, known_runs
from hyla.evals.synthetic.learning import learn
from hyla.evals.synthetic.plan import Plan, Run
from hyla.evals.synthetic.plots import draw
from hyla.evals.synthetic.report import cells, guesses, markdown, rows, titles
from hyla.evals.synthetic.results import Result, Score, read_result
from hyla.ops.host_memory import keep_freed_memory
from hyla.train.files import writing
from hyla.whole_files import write_whole


def show(plan: Plan, folder: Path) -> None:
    """Which runs there are, and which are finished."""
    results = _finished(plan, folder)
    for run in known_runs(plan, results):
        done = "finished" if run.name in results else "to do"
        console.print(f"{done:9} {run.name}, at most {run.steps:,} steps of {run.train_config().batch_tokens:,} tokens")
    unknown = sum(attempt.num_unknown for attempt in attempts(plan, results))
    if unknown:
        console.print(f"and {unknown} runs or more, once their learning rates are found", soft_wrap=True)


def _finished(plan: Plan, folder: Path) -> dict[str, Result]:
    def read(run: Run) -> Result | None:
        file = folder / f"{run.name}.json"
        return read_result(file) if file.exists() else None

    return finished(plan, read)


def learn_all(plan: Plan, folder: Path) -> None:
    """One run after the other, then the table, report.md and its plots."""
    keep_freed_memory()
    results = _finished(plan, folder)
    while missing := [run for run in known_runs(plan, results) if run.name not in results]:
        for run in missing:
            console.print(f"run {len(results) + 1} of {len(known_runs(plan, results))}: {run.told}")
            results[run.name] = result = learn(run, folder, _say)
            console.print(f"  best {result.peak:.1%} right, {result.seconds:.0f} s of training", soft_wrap=True)
    found = rows(plan, results)
    table = Table(*titles(plan))
    for row in found:
        table.add_row(*cells(row))
    console.print(table)
    with writing(folder / "report.md"):
        pictures = draw(found, folder, guesses(plan))
        write_whole(folder / "report.md", markdown(plan, found))
    names = ", ".join(file.name for file in pictures)
    console.print(f"wrote {folder / 'report.md'}" + (f" and {names}" if names else ""), soft_wrap=True)


def _say(score: Score) -> None:
    console.print(
        f"  step {score.step:,}, {score.tokens:,} tokens: {score.accuracy:.1%} right, "
        f"{score.whole:.1%} of examples without a fault, loss {score.loss:.3f}",
        soft_wrap=True,
    )
