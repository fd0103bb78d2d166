"""Sends a plan at its times, or as fast as a number of clients allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hyla.loadtest.client import Sample, Target
from hyla.loadtest.plan import Planned, Workload


@dataclass
class Progress:
    """How far a run is."""

    total: int
    running: int = 0
    samples: list[Sample] = field(default_factory=list)
    elapsed: float = 0.0


OnProgress = Callable[[Progress], None]


async def drive(
    target: Target,
    warmup: Sequence[Planned],
    requests: Sequence[Planned],
    workload: Workload,
    on_progress: OnProgress = lambda progress: None,
) -> list[Sample]:
    """Send everything; the samples of `requests` in the order in which they ended."""
    quiet = Progress(len(warmup))
    await _closed(target, warmup, workload.concurrency, quiet, lambda progress: None)
    progress = Progress(len(requests))
    if workload.arrival == "closed":
        await _closed(target, requests, workload.concurrency, progress, on_progress)
    else:
        await _open(target, requests, progress, on_progress)
    return progress.samples


async def _one(
    target: Target, planned: Planned, start: float, progress: Progress, on_progress: OnProgress, late: float = 0.0
) -> None:
    progress.running += 1
    sample = await target.send(planned, start)
    sample.late = late
    progress.running -= 1
    progress.samples.append(sample)
    progress.elapsed = target.clock() - start
    on_progress(progress)


async def _closed(
    target: Target, requests: Sequence[Planned], concurrency: int, progress: Progress, on_progress: OnProgress
) -> None:
    waiting, start = iter(requests), target.clock()

    async def client() -> None:
        for planned in waiting:
            await _one(target, planned, start, progress, on_progress)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(requests))):
            group.create_task(client())


async def _open(target: Target, requests: Sequence[Planned], progress: Progress, on_progress: OnProgress) -> None:
    start = target.clock()
    async with asyncio.TaskGroup() as group:
        for planned in requests:
            await asyncio.sleep(max(planned.at_seconds - (target.clock() - start), 0.0))
            late = target.clock() - start - planned.at_seconds
            group.create_task(_one(target, planned, start, progress, on_progress, late))
