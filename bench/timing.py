"""Taking times on a machine that others use too: ways take turns, and their ratio is what counts."""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping

from bench.turns import take_turn

Clock = Callable[[], float]
T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Two-sided 95% points of Student's t, from one degree of freedom on."""


def add_clock_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread's own time instead of the wall's, where others compute too"
    )


def chosen_clock(options: argparse.Namespace) -> Clock:
    """The clock of `add_clock_option`; with processor time there is one thread, since those that wait count too."""
    if not options.cpu_time:
        return time.perf_counter
    import torch

    torch.set_num_threads(1)
    return time.process_time


def timed(call: Callable[[], object], clock: Clock = time.perf_counter) -> tuple[float, object]:
    """Seconds, and what the call returned."""
    start = clock()
    result = call()
    return clock() - start, result


def alternated(
    calls: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: int = 1, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call, in turn, so that a change of the machine's speed meets all. First rounds do not count."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        take_turn()
        for name, call in calls.items():
            seconds, _ = timed(call, clock)
            if turn >= warm_up:
                found[name].append(seconds)
    return found


def medians(found: Mapping[str, list[float]], scale: float = 1.0, digits: int = 3) -> dict[str, float]:
    """Of each name's times; scale 1e3 gives milliseconds."""
    return {name: round(statistics.median(values) * scale, digits) for name, values in found.items()}


def interval(ratios: list[float]) -> dict[str, float]:
    """Geometric mean of paired ratios with its 95% interval (t distribution of the logarithms)."""
    logs = [math.log(ratio) for ratio in ratios]
    middle, degrees = statistics.fmean(logs), len(logs) - 1
    half = T_95[min(degrees, len(T_95)) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    return {"ratio": math.exp(middle), "low": math.exp(middle - half), "high": math.exp(middle + half)}
