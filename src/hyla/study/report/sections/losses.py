"""Bits per byte of all arms and budgets, and how far each arm is from the reference."""

from __future__ import annotations

from hyla.evals.pages import table
from hyla.study.report.cells import Cell
from hyla.study.report.findings import Findings
from hyla.study.report.formats import NOTHING, changes, flops, interval, named
from hyla.study.report.intervals import seed_mean
from hyla.study.statistics import Comparison, smallest_difference

POWER = 0.8
SEEDS = """\
"By seeds alone" is the interval from one value per seed, its mean over budgets: mostly wider, and right whatever a \
seed's runs at several budgets have in common. It is of one comparison alone, and no verdict goes by it."""
DRIFT = 0.05
MOST_OTHERS = 15
"""Pairs without the reference that are all shown."""


def loss_table(found: Findings) -> str:
    """Arms x budgets."""
    about = found.about
    titles = ["arm", *(f"{flops(budget)} FLOPs" for budget in about.budgets)]
    lines = [[arm, *(_cell(found.cells.get((arm, b))) for b in about.budgets)] for arm in about.arms]
    return f"""## Bits per byte

{table([titles, *lines])}

Of the test text; lower is better. Means over seeds, in brackets 95% intervals of the mean (Student's t). Seeds are \
paired, so that these intervals say little about differences: those are below. {_marks(found)}"""


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "no runs"
    return " ".join([interval(seed_mean(list(cell.bits.values()))), *(f"({mark})" for mark in cell.marks)])


def _marks(found: Findings) -> str:
    meanings = {
        "invalid": '"invalid": the best learning rate of its search is the lowest or highest that was tried, so the '
        "arm may be worse here than it is",
        "incomplete": '"incomplete": runs are missing',
        "unmatched": '"unmatched": FLOPs differ from the reference\'s by more than 1%',
        "diverged": '"diverged": a run ended without finite numbers',
    }
    marks = {mark.partition(":")[0] for cell in found.cells.values() for mark in cell.marks}
    if not marks:
        return "No row is marked."
    shown = "; ".join(meaning for mark, meaning in meanings.items() if mark in marks)
    return f"Marked rows are compared with nothing and no law is fitted to them: {shown}."


def differences(found: Findings) -> str:
    """Every arm against the reference; of an ablation, sorted by the difference."""
    about = found.about
    if not found.comparisons:
        why = found.left_out.get(about.reference)
        return f"## Differences to {about.reference}\n\n" + (
            f"Nothing is compared: the reference is marked ({why})." if why else "Nothing is compared: one arm is left."
        )
    compared = list(found.comparisons)
    if about.is_ablation:
        compared.sort(key=lambda one: one.difference.estimate if one.difference else float("inf"))
    titles = [
        "arm",
        *(["changed"] if about.is_ablation else []),
        "difference",
        "judged together",
        "by seeds alone",
        "verdict",
    ]
    lines = [_difference(found, one) for one in compared]
    left = [f"{arm} ({why})" for arm, why in found.left_out.items() if arm != about.reference]
    note = f" Not compared: {named(left)}." if left else ""
    return (
        f"""## Differences to {about.reference}

{table([titles, *lines])}

Bits per byte, arm minus {about.reference}, of equal seeds at equal budgets, mean over budgets; below zero the arm is \
better. In brackets the 95% interval of that difference alone, and the wider one that keeps the chance of any false \
verdict of this table below 5% (Holm); the verdict goes by the latter. {_noise(found)}{SEEDS}\
{_drift(compared)}{note}{_power(found, compared)}

{_by_budget(found, compared)}""".rstrip()
        + _others(found)
    )


def _others(found: Findings) -> str:
    """Pairs without the reference; of many, those that are decided. Of an ablation, none."""
    pairs = [one for one in found.others if one.difference is not None]
    shown = pairs if len(pairs) <= MOST_OTHERS else [one for one in pairs if one.better is not None]
    if not pairs or found.about.is_ablation:
        return ""
    lines = [
        [one.first, one.second, *(interval(x, "+.4f") for x in (one.difference, one.family, one.by_seeds)), one.verdict]
        for one in shown
    ]
    titles = ["arm", "minus", "difference", "judged together", "by seeds alone", "verdict"]
    left = len(pairs) - len(shown)
    return (
        "\n\n### Other pairs\n\n"
        + (f"{table([titles, *lines])}\n\n" if lines else "")
        + "As above, judged together among themselves."
        + (f" {left} more are inside the noise." if left else "")
    )


def _drift(compared: list[Comparison]) -> str:
    """A warning where a seed's differences at several budgets look alike."""
    alike = [one.first for one in compared if one.together is not None and one.together < DRIFT]
    if not alike:
        return ""
    return (
        f" Of {named(alike)} a seed's differences look alike at several budgets (F test, p below {DRIFT:g}): there the "
        "verdict is surer than it should be, and the interval by seeds alone is the one to read."
    )


def _difference(found: Findings, one: Comparison) -> list[str]:
    fields = [changes(_changes(found, one.first))] if found.about.is_ablation else []
    return [
        one.first,
        *fields,
        interval(one.difference, "+.4f"),
        interval(one.family, "+.4f"),
        interval(one.by_seeds, "+.4f"),
        one.verdict,
    ]


def _changes(found: Findings, arm: str) -> dict:
    return next((cell.runs[0].run.changes for (name, _), cell in found.cells.items() if name == arm), {})


def _noise(found: Findings) -> str:
    """Where the noise comes from, if not from the pair."""
    if found.about.noise == "pair":
        return ""
    return "As the study says, noise is taken to be alike in all arms of a budget and estimated from all of them. "


def _power(found: Findings, compared: list[Comparison]) -> str:
    """What the study could have found, given its noise."""
    noises = [one.noise for one in compared if one.noise is not None]
    if not noises:
        return ""
    noise = max(noises)
    seeds = min(min(one.pairs.values(), default=0) for one in compared)
    budgets = min(len(one.pairs) for one in compared)
    if seeds < 2 or noise <= 0:
        return ""
    counts = [sum(budget in one.pairs for one in compared) for one in compared for budget in one.pairs]
    arms = 2 if found.about.noise == "pair" else 1 + min(counts)
    least = smallest_difference(noise, seeds, budgets, len(compared), POWER, arms)
    return (
        f" The noise of one pair is at most {noise:.4f} (standard deviation). With it, {seeds} seeds at "
        f"{budgets} {'budget' if budgets == 1 else 'budgets'} find a difference of {least:.4f} with {POWER:.0%} power."
    )


def _by_budget(found: Findings, compared: list[Comparison]) -> str:
    budgets = [budget for budget in found.about.budgets if any(budget in one.by_budget for one in compared)]
    if len(budgets) < 2:
        return ""
    titles = ["arm", *(f"at {flops(budget)}" for budget in budgets), "change per tenfold FLOPs"]
    lines = [
        [one.first, *(interval(one.by_budget.get(b), "+.4f") for b in budgets), interval(one.trend, "+.4f")]
        for one in compared
    ]
    return (
        table([titles, *lines]) + f"\n\nThe same, budget by budget, each with its own 95% interval ({NOTHING}: none)."
    )
