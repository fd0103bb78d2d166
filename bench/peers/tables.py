"""The rounds as markdown: a line for each piece of work, a column for each engine, and what is below a goal."""

from __future__ import annotations

from bench.peers.goals import Goal, title_of, verdict
from bench.peers.rounds import Row


def tables(rows: list[Row], goals: dict[str, list[Goal]]) -> str:
    """A table for everyone who is held against others."""
    firsts = dict.fromkeys(row.first for row in rows)
    return "\n\n".join(table([row for row in rows if row.first == first], goals, first) for first in firsts)


def table(rows: list[Row], goals: dict[str, list[Goal]], first: str) -> str:
    """Tokens a second of everyone; in brackets how many times as fast `first` is: median over rounds (least, largest).
    Reasons and notes follow as a list."""
    names = list(dict.fromkeys(name for row in rows for name in (*row.rates, *row.reasons)))
    names.sort(key=lambda name: name != first)
    has_share = any(row.share(first) is not None for row in rows)
    heads = ["tokens/s", *map(title_of, names), *(["share of bandwidth"] if has_share else []), "goal"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        cells = [row.title, *(_cell(row, name) for name in names)]
        cells += [_share(row, names)] if has_share else []
        lines.append(_line([*cells, "; ".join(verdict(row, goal) for goal in goals.get(row.title, ()))]))
    return "\n".join([*lines, *_remarks(rows)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: Row, name: str) -> str:
    if not row.rates.get(name):
        return "-"
    rate = f"{row.median(name):,.0f}" if row.median(name) >= 100 else f"{row.median(name):.1f}"
    ratios = None if name == row.first else row.ratios(name)
    return f"{rate} ({ratios[0]:.2f}x: {ratios[1]:.2f}, {ratios[2]:.2f})" if ratios else rate


def _share(row: Row, names: list[str]) -> str:
    found = {name: row.share(name) for name in names}
    return ", ".join(f"{title_of(name)} {share:.2f}" for name, share in found.items() if share is not None)


def _remarks(rows: list[Row]) -> list[str]:
    """Every reason and note once, with the work that it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, words in [*row.reasons.items(), *row.notes.items()]:
            found.setdefault((name, words), []).append(row.title)
    lines = [f"- {title_of(name)} ({', '.join(titles)}): {words}" for (name, words), titles in found.items()]
    return ["", *lines] if lines else []
