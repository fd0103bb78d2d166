"""The report of a study whose arms learn tasks from scratch: `report.md`, `results.csv`, plots. No PyTorch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from hyla.evals.pages import table
from hyla.evals.synthetic.plots import draw
from hyla.evals.synthetic.report import GUESSES, LEARNT, PICTURES, by_length, cells, guess_cells, guesses, how, titles
from hyla.evals.synthetic.results import Result
from hyla.study.report.formats import NOTHING, interval, layers, named
from hyla.study.report.learnt import ALL, MEASURES, AboutSynthetic, Learnt, oriented
from hyla.study.report.sections.published import beside
from hyla.study.statistics import Comparison
from hyla.train.files import writing
from hyla.whole_files import write_whole


def write_synthetic_report(folder: Path, about: AboutSynthetic, results: Mapping[str, Result]) -> Learnt:
    """Write `report.md`, `results.csv` and the plots into a folder, which is made. Returns what was found.

    results: by the name of their run (`Run.name`), in any number. Raises CheckpointError for what the disk refuses.
    """
    found = Learnt(about, results)
    with writing(folder / "report.md"):
        folder.mkdir(parents=True, exist_ok=True)
        draw(found.rows, folder, guesses(about.plan))
        write_whole(folder / "results.csv", to_csv(found))
        write_whole(folder / "report.md", markdown(found))
    return found


def markdown(found: Learnt) -> str:
    """The page."""
    plan = found.about.plan
    parts = [
        f"# {found.about.name}\n\n{found.about.question.strip()}",
        _answer(found),
        _method(found),
        f"## Best scores\n\n{_marked_table(found)}\n\n{how(plan)}",
        by_length(found.rows),
        *([f"![{text}]({file})" for file, text in PICTURES.items()] if found.rows else []),
        _differences(found),
        beside(found.about.published, found.judge),
        _limits(found),
        _runs(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _answer(found: Learnt) -> str:
    kind = ALL if len(found.kinds) > 1 else next(iter(found.kinds), ALL)
    pairs = found.comparisons.get((kind, MEASURES[0]), ())
    decided = [pair for pair in pairs if pair.better is not None]
    lines = [f"- {pair.better} is better than {_other(pair)} ({oriented(pair, pair.better or '')})" for pair in decided]
    if edges := found.edges(kind) & {arm for pair in pairs for arm in (pair.first, pair.second)}:
        lines.append(f"- The rate of {named(sorted(edges))} is at the edge: with a better one it may do better.")
    open_ones = [f"{pair.first} and {pair.second}" for pair in pairs if pair.better is None]
    if open_ones:
        lines.append(f"- Inside the noise: {named(open_ones)}.")
    if not pairs:
        lines = [f"- Nothing can be compared: {_why_none(found)}."]
    head = "" if found.is_whole else _unfinished(found)
    return f"## Answer\n\n{head}Best scores, {kind} and lengths together:\n\n" + "\n".join(lines)


def _why_none(found: Learnt) -> str:
    if not found.whole_places:
        return "of no task and length have all arms finished"
    if not found.kinds:
        return "no task is learnt"
    return "of what is learnt, fewer than two arms are finished without a seed that diverged"


def _unfinished(found: Learnt) -> str:
    whole, wanted = len(found.whole_places), len(found.about.plan.tasks)
    if not whole:
        return f"**Not finished:** at none of {wanted} tasks and lengths have all arms all their runs.\n\n"
    return (
        f"**Not finished:** of {whole} of {wanted} tasks and lengths all arms have all their runs, and only these are "
        "compared. What follows is what there is so far.\n\n"
    )


def _other(pair: Comparison) -> str:
    return pair.second if pair.better == pair.first else pair.first


def _method(found: Learnt) -> str:
    plan = found.about.plan
    hours = sum(result.seconds for result in found.results.values()) / 3600
    done = sum(run.name in found.results for run in found.runs)
    arms = "; ".join(f"{arm} ({layers(names)})" for arm, names in plan.arms.items())
    lines = [
        f"Arms: {arms}.",
        f"Tasks: {named(f'{task.kind} of {task.length}' for task in plan.tasks)} tokens.",
        f"Learning rates {named(f'{rate:g}' for rate in plan.rates)}{_further(found)}; which one counts is said below.",
        f"Seeds {named(plan.seeds)}: start values and examples, the same for all arms.",
        f"{done} of {found.num_runs} runs are finished{_more(found)}, {hours:.1f} hours of training.",
    ]
    return "## Method\n\n" + "\n".join(f"- {line}" for line in [*lines, *filter(None, [found.about.notes.strip()])])


def _more(found: Learnt) -> str:
    return " (a search may ask for more)" if found.num_runs > len(found.runs) else ""


def _further(found: Learnt) -> str:
    search = found.about.plan.search
    return "" if search is None else f" and further ones where the best was an outer one, with seed {search.seed}"


def _marked_table(found: Learnt) -> str:
    lines = []
    for row in found.rows:
        line = cells(row)
        if row.task not in found.kinds:
            line[4] = f"not learnt ({line[4]})"
        lines.append(line)
    whole = {(row.task, row.length, row.arm) for row in found.rows}
    plan = found.about.plan
    for task in plan.tasks:
        for arm in plan.arms:
            if (task.kind, task.length, arm) not in whole:
                absent = [NOTHING] * (len(titles(plan)) - 4)
                lines.append([task.kind, str(task.length), arm, "incomplete", *absent])
    lines += guess_cells(plan)
    who = "some arm's" if found.about.must_learn is None else f"{found.about.must_learn}'s"
    rule = (
        f"A kind of task counts as learnt where {who} best score, mean over seeds, is over {found.about.learnt_at:.0%} "
        'at its shortest length; elsewhere rows say "not learnt" and are not compared. Nor are rows of which a seed '
        f"diverged. {GUESSES}"
    )
    return table([titles(plan), *lines]) + f"\n\n{rule}"


def _differences(found: Learnt) -> str:
    lines = []
    for (kind, measure), pairs in found.comparisons.items():
        lines += [
            [
                kind,
                measure,
                f"{pair.first} minus {pair.second}",
                interval(pair.difference, "+.1%"),
                interval(pair.by_seeds, "+.1%"),
                _verdict(found, kind, pair),
            ]
            for pair in pairs
        ]
    if not lines:
        return ""
    return f"""## Differences

{table([["task", "measure", "arms", "difference", "by seeds alone", "verdict"], *lines])}

Share of right answers, of equal seeds, mean over lengths, with its own 95% interval, and with the one from one value \
per seed (mostly wider, and right whatever a seed's runs have in common, such as start values; no verdict goes by it). \
The verdicts of a task and measure are judged together (Holm). "While learning": the mean over all steps, larger the \
sooner a task is learnt."""


def _verdict(found: Learnt, kind: str, pair: Comparison) -> str:
    edges = sorted(found.edges(kind) & {pair.first, pair.second})
    return f"{pair.verdict}; rate of {named(edges)} at the edge" if edges else pair.verdict


def _limits(found: Learnt) -> str:
    plan = found.about.plan
    longest, tokens = max(task.length for task in plan.tasks), max(run.tokens for run in found.runs)
    lines = [
        f"Tasks of at most {longest:,} tokens, at most {tokens / 1e6:.1f}M training tokens a run, {len(plan.seeds)} "
        "seeds: an arm that did not learn here may learn with more.",
        "Made-up tasks: an arm that is better at one is not thereby better at language.",
        f"One optimizer; the rates that were tried are all that is known of rates. {_machines(found)}",
    ]
    return "## What this does not show\n\n" + "\n".join(f"- {line}" for line in lines)


def _machines(found: Learnt) -> str:
    if not found.results:
        return "Nothing is computed yet."
    known = sorted({result.machine for result in found.results.values() if result.machine})
    others = any(not result.machine for result in found.results.values())
    return f"Computed on {named([*known, *(['machines that are not recorded'] if others else [])])}."


def _runs(found: Learnt) -> str:
    shown = [(name, run) for name, run in _by_run(found).items() if name in found.results]
    lines = [
        [name, run["arm"], f"{run['rate']:g}", str(run["seed"]), f"{found.results[name].peak:.1%}"]
        for name, run in shown
    ]
    return (
        f"## Runs\n\n{table([['file', 'arm', 'rate', 'seed', 'best score'], *lines])}\n\nresults.csv has more of each."
    )


def _by_run(found: Learnt) -> dict[str, dict]:
    arm_of = {names: arm for arm, names in found.about.plan.arms.items()}
    return {
        run.name: {
            "task": run.task.kind,
            "length": run.task.length,
            "arm": arm_of[run.layers],
            "layers": " ".join(run.layers),
            "rate": run.rate,
            "seed": run.seed,
        }
        for run in found.runs
    }


def to_csv(found: Learnt) -> str:
    """A row for each finished run."""
    lines = []
    for name, run in _by_run(found).items():
        if name in found.results:
            result = found.results[name]
            lines.append(
                {
                    "file": f"{name}.json",
                    **run,
                    "best_score": result.peak,
                    "last_score": result.curve[-1].accuracy if result.curve else None,
                    "steps": result.curve[-1].step if result.curve else None,
                    "steps_to_90": result.steps_to(LEARNT),
                    "lowest_training_loss": None if result.diverged else result.lowest_loss,
                    "diverged": result.diverged,
                    "parameters": result.parameters,
                    "seconds": result.seconds,
                    **{f"right_at_{length}": share for length, share in result.by_length.items()},
                }
            )
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
