"""This machine's rates, measured on the engine's own sublayers: under a minute where nothing else runs.

Every kind of sublayer is timed at a few sizes, decoding a token and reading a prompt. What its projections do not
explain is its operator's: seconds = calls x overhead + FLOPs / rate + bytes / rate, fitted without negative parts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from hyla.cost.calibration import NEVER, Point, fit, machine_of
from hyla.cost.call import Setting, Work
from hyla.cost.device import Device, Rate
from hyla.cost.roofline import work_seconds
from hyla.cost.timing import (
    DECODE_AT,
    HIDDEN,
    Case,
    Clock,
    bandwidth,
    case_seconds,
    head_point,
    matmul_rate,
    matmul_table,
    step_overhead,
)
from hyla.cost.work import sublayer_work
from hyla.models.config import SublayerConfig
from hyla.models.kinds import KINDS, Calibration, Kind


def _works(case: Case) -> list[Work]:
    at = Setting(case.step, "bf16", "hyla")
    return list(sublayer_work(SublayerConfig(module=case.module), HIDDEN, at))


@dataclass(frozen=True)
class Fitted:
    """How one rate is found: the calls that are timed, and what of them the operator's time depends on."""

    operator: str
    cases: list[Case]
    parts: tuple[str, ...]


LONG_CONTEXTS = (DECODE_AT, (1 << 13) + 20, (1 << 14) + 20)
"""Of a decoded token whose time grows with the context."""


def _fitted(kind: Kind, calibration: Calibration) -> dict[str, Fitted]:
    """The rates of one kind, of reading a prompt and of decoding a token."""
    shares_operator = sum(other.operator == kind.operator for other in KINDS.values()) > 1
    name = f"{kind.operator}/{kind.name}" if shares_operator else kind.operator
    # One decoded row only reads a state or weights; its products with cached keys take time of their own.
    parts = ("calls", "flops", "nbytes") if kind.operator == "attention" else ("calls", "nbytes")
    starts = LONG_CONTEXTS if kind.operator == "attention" else (DECODE_AT,)
    prompts = [Case(calibration.sizes[-1], 0, length) for length in calibration.prompts]
    decoded = [Case(module, start, 1) for module in calibration.sizes for start in starts]
    return {
        f"{name}/prefill": Fitted(kind.operator, prompts, ("calls", "flops")),
        f"{name}/decode": Fitted(kind.operator, decoded, parts),
    }


def _cases() -> dict[str, Fitted]:
    """By rate, in the order of measurement: later ones are what the earlier ones leave unexplained."""
    found: dict[str, Fitted] = {}
    for kind in KINDS.values():
        if kind.calibration:
            found |= _fitted(kind, kind.calibration)
    return found


def calibrate(say: Callable[[str], None] = lambda line: None, clock: Clock = time.perf_counter) -> Device:
    """Measure this machine. say: told what is being measured. clock: `time.process_time` on a machine whose other
    processes take the processor away now and then (with one thread, which it counts alone)."""
    import torch

    from hyla.ops.host_memory import keep_freed_memory

    keep_freed_memory()
    rates = {"elementwise": Rate(NEVER, NEVER, 0.0, adds_up=True)}
    peaks = {"bf16": matmul_rate(torch.bfloat16, 512, clock), "fp32": matmul_rate(torch.float32, 512, clock)}
    speed = bandwidth(clock)
    # Per-head and router products: few rows a matrix, in fp32.
    rates["projection/fp32/prefill"] = Rate(peaks["fp32"], NEVER, 0.0, adds_up=True)
    source = f"measured with {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    machine_with = partial(
        machine_of, bytes_per_second=speed, memory_bytes=_memory_bytes(), source=source, peak_flops=peaks
    )
    for name, fitted in _cases().items():
        say(name)
        machine = machine_with(rates=rates)
        rates[name] = fit([_point(case, fitted.operator, machine, clock) for case in fitted.cases], fitted.parts)
        if fitted.parts == ("calls", "nbytes"):
            # A single sequence's row says nothing about products of many rows; prompts do.
            prefill_rate = rates[name.replace("/decode", "/prefill")]
            rates[name] = replace(rates[name], flops_per_second=prefill_rate.flops_per_second)
    say("head and step")
    rates["head"] = fit([head_point(columns, clock) for columns in (8192, 32768)], ("calls", "nbytes"))
    rates["head"] = replace(rates["head"], flops_per_second=peaks["fp32"])
    machine = machine_with(rates=rates)
    for length, phase in ((1, "decode"), (128, "prefill")):
        rates[f"embedding/{phase}"] = Rate(NEVER, NEVER, max(step_overhead(machine, length, clock), 0.0), adds_up=True)
    return machine_with(rates=rates, measurements=matmul_table(clock))


def _point(case: Case, operator: str, machine: Device, clock: Clock) -> Point:
    """What an operator did in a case, and the time that nothing else explains."""
    works = _works(case)
    mine = [work for work in works if work.operator == operator]
    others = sum(work_seconds(work, machine, "bf16")[0] for work in works if work.operator != operator)
    return Point(
        calls=sum(work.calls for work in mine),
        flops=sum(work.flops for work in mine),
        nbytes=sum(work.nbytes for work in mine),
        seconds=case_seconds(case, clock) - others,
    )


def _memory_bytes() -> float:
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
