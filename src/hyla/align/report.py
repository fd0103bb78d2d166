"""A measurement as a page, and as data for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from hyla.align.run import Alignments, WayReport

PRICES = ("way", "tokens", "equal", "KL (k1)", "KL (k3)", "mean", "largest", "ratio", "born in", "greedy", "speed")


def plain(found: Alignments, about: dict[str, Any]) -> dict[str, Any]:
    """All of it; numbers that JSON has not are null. about: what stands before it."""
    reports = {"exact": found.exact, "against": found.against}
    return {
        **about,
        "is_zero": found.is_zero,
        **{name: None if one is None else _way(one) for name, one in reports.items()},
        "ways": [_way(one) for one in found.ways],
        "skipped": found.skipped,
    }


def _way(report: WayReport) -> dict[str, Any]:
    gaps = [{**asdict(gap), "relative": gap.relative} for gap in report.gaps]
    born = None if report.born is None else report.born.operator
    return _finite({**asdict(report), "gaps": gaps, "is_zero": report.is_zero, "born_in": born})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def prices(found: Alignments) -> list[tuple[str, ...]]:
    """A row of `PRICES` for each report."""
    return [_price(report) for report in found.reports]


def _price(report: WayReport) -> tuple[str, ...]:
    found = report.figures
    return (
        report.name,
        f"{found.tokens:,}",
        percent(found.share_equal),
        number(found.k1),
        number(found.k3),
        number(found.mean),
        number(found.largest),
        f"{ratio(found.ratio_min)} to {ratio(found.ratio_max)}",
        "-" if report.born is None else report.born.operator,
        _parting(report),
        _speed(report),
    )


def _parting(report: WayReport) -> str:
    greedy = report.greedy
    if greedy is None:
        return "-"
    if not greedy.parted:
        return f"0 of {greedy.prompts}"
    return f"{greedy.parted} of {greedy.prompts}: {greedy.median:g} ({greedy.least})"


def _speed(report: WayReport) -> str:
    if report.greedy is None or not report.is_timed:
        return "-"
    return f"{report.greedy.tokens_per_second / report.greedy.exact_tokens_per_second:.2f}x"


def growth(found: Alignments) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Mean and largest |difference| by position: a head, and a row for each report."""
    reports = found.reports
    ends = sorted({bucket.end for report in reports for bucket in report.buckets})
    rows = []
    for report in reports:
        by_end = {bucket.end: bucket.figures for bucket in report.buckets}
        cells = [f"{number(by_end[end].mean)}, {number(by_end[end].largest)}" if end in by_end else "-" for end in ends]
        rows.append((report.name, *cells))
    return ("way", *(f"before {end:,}" for end in ends)), rows


def by_bucket(found: Alignments) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """`growth`, a row for each report and bucket."""
    rows = []
    for report in found.reports:
        for bucket in report.buckets:
            own = bucket.figures
            cells = (
                f"{bucket.first:,} to {bucket.end - 1:,}",
                f"{own.tokens:,}",
                number(own.mean),
                number(own.largest),
            )
            rows.append((report.name, *cells))
    return ("way", "positions", "tokens", "mean", "largest"), rows


def layers(report: WayReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Rows that differ by operator: a head, and the modules, ends, and whatever else a gap is born in."""
    rows = []
    for gap in report.gaps:
        is_between = " norm of " in gap.operator or " join of " in gap.operator
        if not is_between or gap.born:
            counts = (f"{gap.rows:,}", f"{gap.differing:,}", f"{gap.born:,}")
            rows.append((gap.operator, *counts, number(gap.relative)))
    return ("operator", "rows", "differing", "born here", "largest, relative"), rows


def verdict(report: WayReport) -> list[str]:
    """The exact path in words, a line each."""
    found = report.figures
    if report.is_zero:
        lines = [f"Zero: all {found.tokens:,} tokens have the trainer's log-probability, bit for bit."]
    else:
        lines = [f"NOT zero: {found.tokens - found.equal:,} of {found.tokens:,} tokens differ."]
    first = report.first_difference
    if first is not None:
        lines.append(
            f"First: prompt {first.prompt}, turn {first.turn}, position {first.position}, token {first.token_id} "
            f"({first.token!r}): {first.rollout!r} in the engine, {first.new!r} in the trainer."
        )
    if report.born is not None:
        lines.append(f"Born in {report.born.operator}: {report.born.born:,} of {report.born.rows:,} rows.")
    lines += [f"Failed: {line}" for line in report.failed]
    return lines + _happened(report)


def _happened(report: WayReport) -> list[str]:
    found = report.happened
    if found is None:
        return []
    sizes = ", ".join(f"{size} ({steps})" for size, steps in found.batch_sizes.items())
    rejected = found.drafted_tokens - found.accepted_tokens
    lines = [
        f"On the way: {found.cached_tokens:,} tokens from the prefix cache, {found.accepted_tokens:,} drafts accepted "
        f"and {rejected:,} rejected, sequences in a step (steps): {sizes}; {found.recorded_steps:,} recorded steps."
    ]
    return lines + [f"Not proved here: {what}." for what in found.missing]


def markdown(found: Alignments, title: str) -> str:
    """The page report.md."""
    parts = [f"# {title}"]
    if found.exact is not None:
        parts.append("\n".join(f"- {line}" for line in verdict(found.exact)))
    parts += ["## Prices", _table(PRICES, prices(found)), "## By position: mean and largest difference, nats"]
    parts.append(_table(*growth(found)))
    for report in found.reports:
        if report.gaps:
            parts += [f"## Layer by layer: {report.name}", _table(*layers(report))]
    failed = [f"- {report.name}: {line}" for report in found.ways for line in report.failed]
    if failed:
        parts += ["## Answers that failed", "\n".join(failed)]
    if found.skipped:
        parts += ["## Not measured", "\n".join(f"- {name}: {reason}" for name, reason in found.skipped.items())]
    return "\n\n".join(parts) + "\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def number(value: float) -> str:
    """Two digits.

    >>> number(0.0), number(-0.000123), number(12.5)
    ('0', '-1.2e-04', '12')
    """
    return "0" if value == 0 else f"{value:.2g}" if 0.01 <= abs(value) < 1e6 else f"{value:.1e}"


def ratio(value: float) -> str:
    """As many digits as it takes to see that it is not 1.

    >>> ratio(1.0), ratio(1.2345), ratio(1 + 3e-6), ratio(0.9)
    ('1', '1.23', '1+3.0e-06', '0.90')
    """
    off = value - 1.0
    if off == 0:
        return "1"
    return f"1{off:+.1e}" if abs(off) < 0.01 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1e}"


def percent(share: float) -> str:
    """Never 100% for less than all.

    >>> percent(1.0), percent(0.99999), percent(0.5)
    ('100%', '99.9%', '50.0%')
    """
    return "100%" if share == 1 else f"{math.floor(share * 1000) / 10:.1f}%"
