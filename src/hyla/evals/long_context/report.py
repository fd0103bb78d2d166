"""Scores of long contexts as a table, a page and a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyla.evals.costs import COST_TITLES, Price, cost_cells, told_costs
from hyla.evals.long_context.run import Answered
from hyla.evals.tables import as_markdown
from hyla.train.intervals import interval

DEPTH_BANDS = 10
LEAST_FILLED = 0.8
"""A prompt that has a smaller part of its length is marked."""


def table(lines: Sequence[Answered]) -> list[list[str]]:
    """A row for each kind, a column for each length: mean score, and the 95% bootstrap interval over items."""
    kinds = list(dict.fromkeys(line.kind for line in lines))
    lengths = sorted({line.length for line in lines})
    rows = [["kind", *(f"{length:,} tokens" for length in lengths)]]
    for kind in kinds:
        rows.append([kind, *(_cell([x.score for x in lines if (x.kind, x.length) == (kind, n)]) for n in lengths)])
    return rows


def _cell(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    low, high = interval(scores)
    return f"{np.mean(scores):.1%} ({low:.1%} to {high:.1%}; {len(scores)})"


def cost_table(lines: Sequence[Answered], price: Price | None = None) -> list[list[str]]:
    """A row for each kind and length: how long prompts were, and what all items took for each that was wholly right."""
    rows = [["kind", "length", "prompt", "solved", *COST_TITLES, *(["price"] if price is not None else [])]]
    for key in dict.fromkeys((line.kind, line.length) for line in lines):
        own = [line for line in lines if (line.kind, line.length) == key]
        prompt = np.mean([line.tokens for line in own])
        mark = f"{prompt:,.0f}" + (" (short)" if prompt < LEAST_FILLED * key[1] else "")
        solved = sum(line.score == 1 for line in own)
        rows.append([key[0], f"{key[1]:,}", mark, f"{solved} of {len(own)}", *cost_cells(own, solved, price)])
    return rows


def markdown(lines: Sequence[Answered], price: Price | None = None) -> str:
    """The report as a page."""
    priced = "" if price is None else f" Price: at {price.told}."
    return f"""# Long contexts

{as_markdown(table(lines))}

Share of what was asked for that stands in the answer, in brackets the 95% bootstrap interval over items and their \
number.

## What a solved item costs

{as_markdown(cost_table(lines, price))}

Tokens of a prompt on average ("short": there was not more to fill it with); then what all items took, divided by \
those that were wholly right. Seconds are this machine's, of computing, without the writing of prompts; FLOPs by the \
cost model, without what came from the prefix cache.{priced} {told_costs(lines)}
"""


def heat_map(lines: Sequence[Answered], file: Path) -> bool:
    """Mean score by depth of the needle and length, as a PNG; False, and no file, where no line has a depth."""
    found = [line for line in lines if line.depth is not None]
    if not found:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = sorted({line.length for line in found})
    sums, counts = np.zeros((2, DEPTH_BANDS, len(lengths)))
    for line in found:
        assert line.depth is not None
        place = min(int(line.depth * DEPTH_BANDS), DEPTH_BANDS - 1), lengths.index(line.length)
        sums[place] += line.score
        counts[place] += 1
    figure = Figure(figsize=(2.2 + 0.9 * len(lengths), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    means = np.ma.masked_where(counts == 0, sums / np.maximum(counts, 1))
    image = axes.imshow(means, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    axes.set(xlabel="length, tokens", ylabel="depth of the needle", title=", ".join(sorted({x.kind for x in found})))
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(np.arange(0, DEPTH_BANDS + 1, 2) - 0.5, [f"{band}0%" if band else "0%" for band in range(0, 11, 2)])
    figure.colorbar(image, label="right")
    figure.savefig(file, dpi=150)
    return True
