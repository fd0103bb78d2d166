"""Fitted laws of loss and FLOPs, what an arm saves by them, and where they cross."""

from __future__ import annotations

from hyla.evals.pages import table
from hyla.study.report.findings import Findings
from hyla.study.report.formats import NOTHING, flops, interval, named
from hyla.study.statistics import Efficiency, Interval, Law, LawKind, NotFitted

FORMULAS: dict[LawKind, str] = {"plain": "a (C / C0)^b", "offset": "e + a (C / C0)^b"}


def laws(found: Findings) -> str:
    """Tables of the laws and of what follows from them."""
    titles = ["arm", "law", "C0, FLOPs", "a", "b", "e"]
    lines = [_law(one) for by_arm in found.laws.values() for one in by_arm.values()]
    if not any(isinstance(one, Law) for by_arm in found.laws.values() for one in by_arm.values()):
        whys = named(dict.fromkeys(one.why for one in found.laws["plain"].values() if isinstance(one, NotFitted)))
        return f"## Laws of loss and FLOPs\n\nNo law is fitted: {whys}." if lines else ""
    parts = [
        "## Laws of loss and FLOPs",
        table([titles, *lines]),
        "L(C) in bits per byte of C FLOPs; C0 is the geometric mean of the arm's budgets, where a is known best. In "
        "brackets 95% intervals. A law describes the budgets that were run; beyond them it is a guess. An e whose "
        "interval begins at zero means that these budgets do not tell the two laws apart.",
        _beside(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _law(one: Law | NotFitted) -> list[str]:
    if isinstance(one, NotFitted):
        return [one.arm, f"not fitted: {one.why}", NOTHING, NOTHING, NOTHING, NOTHING]
    e = interval(one.e) if one.kind == "offset" else NOTHING
    return [one.arm, FORMULAS[one.kind], flops(one.reference), interval(one.a), interval(one.b, ".5f"), e]


def _beside(found: Findings) -> str:
    lines = []
    for beside in found.beside:
        ratio = beside.efficiency
        shown = _ratio(ratio) if isinstance(ratio, Efficiency) else f"not fitted: {ratio.why}"
        crossing = beside.crossing
        words = crossing.why if isinstance(crossing, NotFitted) else crossing.words
        lines.append([beside.arm, beside.kind, shown, words])
    if not lines:
        return ""
    reference = found.about.reference
    titles = ["arm", "law", f"FLOPs that {reference} needs, times the arm's", "crossing"]
    return (
        table([titles, *lines])
        + f"\n\nHow many times the arm's FLOPs {reference} needs for the loss that the arm's law has at the largest "
        "budget they share; over 1, the arm saves. These intervals and crossings are by the laws alone, each arm and "
        f"each place by itself: what is better than {reference}, all arms together, is said by the differences above."
        + _undecided(found)
    )


def _undecided(found: Findings) -> str:
    """Of arms that have a law and no verdict."""
    told = {beside.arm for beside in found.beside}
    open_ones = {one.first for one in found.comparisons if one.better is None and one.difference is not None} & told
    names = [arm for arm in found.about.arms if arm in open_ones]
    return f" There, inside the noise: {named(names)}." if names else ""


def _ratio(found: Efficiency) -> str:
    text = interval(Interval(found.ratio.estimate, found.ratio.low, found.ratio.high), ".3f")
    return text + (" (outside the measured range)" if found.is_extrapolated else "")
