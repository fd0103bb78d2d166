"""Quality against what decoding keeps and takes."""

from __future__ import annotations

from statistics import mean

from hyla.evals.pages import table
from hyla.study.report.costs import front
from hyla.study.report.findings import Findings
from hyla.study.report.formats import NOTHING, bytes_of, flops


def quality(found: Findings) -> dict[str, float]:
    """Mean test bits of each arm at the largest budget."""
    if found.top_budget is None:
        return {}
    cells = {arm: found.cells.get((arm, found.top_budget)) for arm in found.about.arms}
    return {arm: mean(cell.bits.values()) for arm, cell in cells.items() if cell is not None and cell.bits}


def fronts(found: Findings) -> tuple[set[str], set[str]]:
    """(arms on the front of loss and bytes, of loss and time), by means; marked places are on none."""
    valid = {
        arm: bits
        for arm, bits in quality(found).items()
        if found.top_budget is not None and found.cells[arm, found.top_budget].is_valid
    }
    sizes = {arm: cost.cache_bytes for arm, cost in found.costs.items()}
    times = {arm: cost.ms_per_token for arm, cost in found.costs.items()}
    by_cost = (
        {arm: (bits, c) for arm, bits in valid.items() if (c := each.get(arm)) is not None} for each in (sizes, times)
    )
    by_bytes, by_time = (front(points) for points in by_cost)
    return by_bytes, by_time


def costs(found: Findings) -> str:
    """A row for each arm."""
    bits = quality(found)
    its = {arm: cost for arm, cost in found.costs.items() if arm in bits and cost.cache_bytes is not None}
    if not its or found.top_budget is None or not differs(found):
        return ""
    by_bytes, by_time = fronts(found)
    first = next(iter(its.values()))
    is_timed = any(cost.ms_per_token is not None for cost in its.values())
    titles = ["arm", "bits per byte", f"cache at {first.context:,} tokens", "front"]
    lines = []
    for arm, cost in its.items():
        line = [found.arm_name(arm), f"{bits[arm]:.4f}", bytes_of(cost.cache_bytes or 0), _yes(arm in by_bytes)]
        if is_timed:
            line += [NOTHING if cost.ms_per_token is None else f"{cost.ms_per_token:.2f}", _yes(arm in by_time)]
        lines.append([*line, cost.size])
    if is_timed:
        timed = next(cost.timed_context for cost in its.values() if cost.ms_per_token is not None)
        titles += [f"ms per token at {timed:,} tokens", "front"]
    return f"""## Quality against cache and time

{table([[*titles, "size"], *lines])}

Mean bits per byte at {flops(found.top_budget)} FLOPs; bytes that decoding keeps of one sequence, by the cost model\
{"; milliseconds of a decoded token, measured" if is_timed else ""}. "Front": no arm is as good and as cheap, by \
means; an arm that is beaten inside the noise is not worse for certain."""


def differs(found: Findings) -> bool:
    """Whether arms cost differently."""
    return len({(cost.cache_bytes, cost.ms_per_token) for cost in found.costs.values()}) > 1


def _yes(holds: bool) -> str:
    return "yes" if holds else ""
