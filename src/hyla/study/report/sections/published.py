"""Published results beside ours, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations

from hyla.evals.pages import table
from hyla.study.report.about import Claim, Published, read_claim
from hyla.study.report.findings import Findings
from hyla.study.report.formats import NOTHING, interval
from hyla.study.statistics import Comparison

Judge = Callable[[Claim], tuple[str, str]]
"""A claim -> (our figures in words, "agrees" and the like)."""


def claims_of(published: Published) -> list[Claim]:
    """Its claims in words, and one for each pair of arms whose numbers differ."""
    found = [read_claim(text) for text in published.order]
    for (one, mine), (other, theirs) in combinations(published.values.items(), 2):
        if mine != theirs:
            is_first = (mine < theirs) == (published.better == "lower")
            better, worse = (one, other) if is_first else (other, one)
            found.append(Claim(f"{better} > {worse}", better, worse, True, None))
    return found


def verdict_on(claim: Claim, better: str | None) -> str:
    """better: the arm that was found to be better, None inside the noise.

    >>> verdict_on(read_claim("a > b"), "b"), verdict_on(read_claim("a >= b"), None)
    ('disagrees', 'agrees (not worse beyond the noise)')
    """
    if better == claim.better:
        return "agrees"
    if better == claim.worse:
        return "disagrees"
    return "inside our noise" if claim.is_strict else "agrees (not worse beyond the noise)"


def published(found: Findings) -> str:
    """All published results of the study file, each claim with ours."""
    return beside(found.about.published, lambda claim: _judged(found, claim))


def beside(all_published: Iterable[Published], judge: Judge) -> str:
    """A part for each published result; "" without any."""
    parts = [_one(each, judge) for each in all_published]
    return "## Beside published results\n\n" + "\n\n".join(parts) if parts else ""


def _one(each: Published, judge: Judge) -> str:
    lines = []
    for claim in claims_of(each):
        ours, verdict = judge(claim)
        numbers = [each.values.get(arm) for arm in (claim.better, claim.worse)]
        theirs = NOTHING if claim.task or None in numbers else " and ".join(f"{number:g}" for number in numbers)
        lines.append([claim.text, theirs, ours, verdict])
    verdicts = [line[3] for line in lines]
    counts = "; ".join(f"{verdict}: {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
    head = f"**{each.source}**" + (f": {each.text}" if each.text else "")
    if not lines:
        return head
    titles = [
        f"they found (> is better); {each.metric}",
        "their numbers",
        "ours: difference, judged together",
        "ours",
    ]
    disagree = "\n\nA disagreement is a finding, of our scale first of all." if "disagrees" in verdicts else ""
    return f"{head}\n\n{table([titles, *lines])}\n\nClaims: {len(lines)}. {counts[:1].upper()}{counts[1:]}.{disagree}"


def _judged(found: Findings, claim: Claim) -> tuple[str, str]:
    pairs, spec = found.pairs, "+.4f"
    if claim.task is not None:
        pairs = next((task.pairs for task in found.tasks if task.name == claim.task), ())
        spec = "+.1%"
    for pair in pairs:
        if {pair.first, pair.second} == {claim.better, claim.worse} and pair.difference is not None:
            return _told(pair, spec), verdict_on(claim, pair.better)
    return NOTHING, "not compared here"


def _told(pair: Comparison, spec: str) -> str:
    return f"{pair.first} minus {pair.second}: {interval(pair.family, spec)}"
