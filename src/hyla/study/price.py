"""What a study costs before it is run: FLOPs, hours on this machine, hours on a card."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hyla.cost.devices import find_device
from hyla.cost.training import train_seconds_per_token
from hyla.evals.synthetic.plan import Run
from hyla.study.course import Course
from hyla.study.language import trainer_of
from hyla.study.run_key import LanguageRun
from hyla.study.sizes import LADDER, Size

DEVICE = "h200"
MOST_PROBE_FLOPS = 2e11
"""Of a step that is timed here. Larger models take the rate of the largest one below."""
PROBE_STEPS = 2
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Price:
    """Hours are of one core here at a time, and of one card; None: nothing here is like it."""

    runs: int
    finished: int
    unknown: int
    flops: float
    flops_to_do: float
    tokens: float
    longest_flops: float
    hours_here: float | None
    longest_minutes: float | None
    basis: str
    device: str
    hours_device: float


def price(course: Course) -> Price:
    """Of all runs that are known by now; rates that are not chosen yet change nothing of it."""
    jobs: Sequence[Any] = course.all_jobs()
    done = [job for job in jobs if course.ledger.has(job)]
    to_do = [job for job in jobs if not course.ledger.has(job)]
    longest = max(jobs, key=lambda job: job.flops)
    rates, basis = _rates(course, done, jobs)
    hours = sum(_seconds(job, rates) for job in to_do) / SECONDS_PER_HOUR if rates else None
    return Price(
        runs=len(jobs),
        finished=len(done),
        unknown=course.num_unknown,
        flops=sum(job.flops for job in jobs),
        flops_to_do=sum(job.flops for job in to_do),
        tokens=sum(job.tokens for job in jobs),
        longest_flops=longest.flops,
        hours_here=hours,
        longest_minutes=_seconds(longest, rates) / 60 if rates else None,
        basis=basis,
        device=DEVICE,
        hours_device=sum(_device_seconds(job) for job in jobs) / SECONDS_PER_HOUR,
    )


def _rates(course: Course, done: Sequence[Any], jobs: Sequence[Any]) -> tuple[dict[int, float], str]:
    """FLOPs a second by parameters of a model, from finished runs or else from some steps now."""
    if done:
        found: dict[int, list[float]] = {}
        for job in done:
            result = course.ledger.read(job)
            seconds = result.get("seconds")
            if seconds:
                found.setdefault(job.num_parameters, []).append(job.flops * _share_done(job, result) / seconds)
        if found:
            return {size: sum(each) / len(each) for size, each in found.items()}, "by runs that are finished"
    timed: dict[int, LanguageRun] = {}
    for job in sorted(map(_probe, jobs), key=lambda job: job.num_parameters):
        if job.flops_per_step <= MOST_PROBE_FLOPS:
            timed.setdefault(job.size.hidden_dim, job)
    if not timed:
        probe = _probe(jobs[0])
        small = LADDER["w128"].model_copy(update={"num_layers": probe.size.num_layers})
        timed[0] = probe.model_copy(update={"size": small, "modules": {}, "batch_tokens": 4096, "length": 512})
    basis = f"by {PROBE_STEPS} steps of the smallest and of the largest model that is not too large"
    probes = list(timed.values())
    return {job.num_parameters: _timed(job) for job in [*probes[:1], *probes[1:][-1:]]}, basis


def _share_done(job: Any, result: Mapping[str, Any]) -> float:
    """Of a run's steps: it may have ended before, because it was good enough or diverged."""
    last = (result.get("curve") or [0])[-1]
    step = last["step"] if isinstance(last, dict) else last[0] if isinstance(last, list) else 0
    return step / job.steps


def _probe(job: LanguageRun | Run) -> LanguageRun:
    """A run whose steps can be timed in the place of a job's: a run of a synthetic plan as one of language."""
    if isinstance(job, LanguageRun):
        return job.model_copy(update={"tasks": {}, "test_tasks": {}, "task_share": 0.0})
    sizes = job.sizes.model_dump() | {"num_layers": len(job.layers)}
    length = max(64, job.task.length)
    return LanguageRun(
        arm=job.name,
        layers=job.layers,
        modules={},
        changes={},
        size=Size(**sizes),
        budget=1.0,
        rate=job.rate,
        seed=job.seed,
        data="",
        text=None,
        tasks={},
        task_share=0.0,
        length=length,
        batch_tokens=max(length, min(8192, job.examples_per_step * job.task.length)),
        optimizer=job.optimizer,
        dtype="fp32",
        test_tokens=1,
        test_examples=1,
    )


def _timed(run: LanguageRun) -> float:
    """FLOPs a second of some steps here."""
    with TemporaryDirectory() as folder:
        trainer = trainer_of(run, Path(folder), steps=1 + PROBE_STEPS)
        trainer.update(0)
        started = time.perf_counter()
        for step in range(1, 1 + PROBE_STEPS):
            trainer.update(step)
        return PROBE_STEPS * run.flops_per_step / (time.perf_counter() - started)


def _seconds(job: Any, rates: dict[int, float]) -> float:
    """At the rate of the model nearest in size."""
    nearest = min(rates, key=lambda size: abs(size / job.num_parameters - 1))
    return job.flops / rates[nearest]


def _device_seconds(job: Any) -> float:
    """At the card's roofline, weights read once a sequence."""
    config = job.model_config_made
    return job.tokens * train_seconds_per_token(config, job.longest, find_device(DEVICE))
