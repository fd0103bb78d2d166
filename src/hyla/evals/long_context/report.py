"""Scores of long contexts as a table, a page and a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyla.evals.long_context.run import Answered
from hyla.train.intervals import interval

DEPTH_BANDS = 10


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


def markdown(lines: Sequence[Answered]) -> str:
    """The report as a page."""
    rows = table(lines)
    rows.insert(1, ["---"] * len(rows[0]))
    shown = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    read, written = sum(line.tokens for line in lines), sum(line.answer_tokens for line in lines)
    cached = sum(line.cached_tokens for line in lines)
    solved = sum(line.score == 1 for line in lines)
    each = f"{(read + written) / solved:,.0f} tokens for each" if solved else "none"
    return f"""# Long contexts

{shown}

Share of what was asked for that stands in the answer, in brackets the 95% bootstrap interval over items and their \
number. {read:,} tokens were read ({cached:,} of them from the prefix cache) and {written:,} written; {solved} of \
{len(lines)} items were wholly right: {each}.
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
