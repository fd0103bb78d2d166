"""Bits per byte by position as a table, a page and a plot; two models beside each other, document by document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hyla.evals.positions.run import ScoredPiece
from hyla.evals.tables import as_markdown

RESAMPLES = 1000
Lines = Sequence[ScoredPiece]


def bits_per_byte(lines: Lines) -> dict[str, float]:
    """By bucket, over all pieces."""
    sums = _sums(lines)
    return {name: float(bits.sum() / sizes.sum()) for name, (bits, sizes) in sums.items()}


def intervals(lines: Lines, minus: Lines | None = None) -> dict[str, tuple[float, float]]:
    """By bucket, the middle 95% over bootstrap samples of documents, with a fixed seed; minus: of the difference to
    these, of the same documents in every sample. A document's pieces stay together: they are not independent."""
    sums, others = _sums(lines), None if minus is None else _sums(minus)
    found = {}
    for name, (bits, sizes) in sums.items():
        drawn = np.random.Generator(np.random.PCG64(0)).integers(0, len(bits), (RESAMPLES, len(bits)))
        ratios = bits[drawn].sum(1) / sizes[drawn].sum(1)
        if others is not None:
            ratios = ratios - others[name][0][drawn].sum(1) / others[name][1][drawn].sum(1)
        ratios.sort()
        found[name] = float(ratios[int(0.025 * RESAMPLES)]), float(ratios[int(0.975 * RESAMPLES) - 1])
    return found


def _sums(lines: Lines) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By bucket, bits and bytes of each document, in the order of documents."""
    documents = list(dict.fromkeys(line.document for line in lines))
    names = sorted({name for line in lines for name in line.bits}, key=int)
    own = [[line for line in lines if line.document == document] for document in documents]
    return {
        name: (
            np.array([sum(line.bits[name] for line in group) for group in own]),
            np.array([sum(line.bytes[name] for line in group) for group in own]),
        )
        for name in names
    }


def table(found: Mapping[str, Lines]) -> list[list[str]]:
    """A row for each bucket and a column for each model; of two, the first minus the second as well."""
    rows = [["tokens before", *found]]
    figures = {name: (bits_per_byte(lines), intervals(lines)) for name, lines in found.items()}
    pair = list(found) if len(found) == 2 else None
    if pair is not None:
        rows[0].append("difference")
        differences = intervals(found[pair[0]], found[pair[1]])
    for bucket in next(iter(figures.values()))[0]:
        row = [_named(int(bucket))]
        row += [f"{mean[bucket]:.4f} ({_range(ranges[bucket])})" for mean, ranges in figures.values()]
        if pair is not None:
            difference = figures[pair[0]][0][bucket] - figures[pair[1]][0][bucket]
            row.append(f"{difference:+.4f} ({_range(differences[bucket], '+')})")
        rows.append(row)
    return rows


def _named(bucket: int) -> str:
    return f"{bucket:,} to {max(2 * bucket, 64) - 1:,}"


def _range(ends: tuple[float, float], sign: str = "") -> str:
    return " to ".join(format(end, f"{sign}.4f") for end in ends)


def markdown(found: Mapping[str, Lines], length: int) -> str:
    """The report as a page."""
    lines = next(iter(found.values()))
    documents = len({line.document for line in lines})
    total = sum(sum(line.bytes.values()) for line in lines)
    seconds = ", ".join(
        f"{name} {sum(line.tokens for line in own) / max(sum(line.seconds for line in own), 1e-9):,.0f}"
        for name, own in found.items()
    )
    beside = " Difference: the first model minus the second." if len(found) == 2 else ""
    alone = " One document has no interval: its pieces are not independent." if documents == 1 else ""
    return f"""# Bits per byte by position

{as_markdown(table(found))}

{len(lines)} pieces of {length:,} tokens from {documents} documents, {total:,} bytes; fewer bits are better. In \
brackets the 95% bootstrap interval over documents.{beside}{alone} Tokens a second: {seconds}.
"""


def plot(found: Mapping[str, Lines], file: Path) -> None:
    """Bits per byte by position with intervals, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, lines in found.items():
        mean, ranges = bits_per_byte(lines), intervals(lines)
        places = range(len(mean))
        axes.plot(places, list(mean.values()), marker="o", label=name)
        low, high = zip(*ranges.values())
        axes.fill_between(places, low, high, alpha=0.2)
    labels = [f"{int(bucket):,}" for bucket in bits_per_byte(next(iter(found.values())))]
    axes.set_xticks(range(len(labels)), labels, rotation=45)
    axes.set(xlabel="tokens before, from", ylabel="bits per byte")
    axes.legend()
    figure.savefig(file, dpi=150)
