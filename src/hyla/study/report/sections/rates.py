"""Learning rates: what was tried, what was chosen."""

from __future__ import annotations

from hyla.evals.pages import table
from hyla.study.report.findings import Findings
from hyla.study.report.formats import flops


def rates(found: Findings) -> str:
    """Arms and budgets x rates."""
    tuned = found.about.tuned
    if not tuned and found.num_rate_runs:
        return f"## Learning rates\n\nNot chosen yet: {found.num_rate_runs} runs are there to choose by."
    if not tuned:
        return "## Learning rates\n\nNone was tuned: all arms have the same, and one of them may suffer by it."
    columns = sorted({rate for search in tuned for rate in search.bits})
    lines = []
    for search in tuned:
        shown = [_bits(search.bits.get(rate, 0.0), rate == search.best) for rate in columns]
        lines.append([search.arm, flops(search.budget), *shown, "edge" if search.is_at_edge else ""])
    return f"""## Learning rates

{table([["arm", "FLOPs", *(f"{rate:g}" for rate in columns), ""], *lines])}

Bits per byte of the validation text, by rate, of one seed that is none of those that count; the chosen one is bold. \
The test text had no say. "Edge": the best rate is the lowest or highest that was tried."""


def _bits(bits: float | None, is_best: bool) -> str:
    if bits is None:
        return "diverged"
    if not bits:
        return ""
    return f"**{bits:.4f}**" if is_best else f"{bits:.4f}"
