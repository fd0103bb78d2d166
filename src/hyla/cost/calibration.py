"""A measured machine: rates fitted to points, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from hyla.cost.device import Device, Rate
from hyla.errors import ConfigError
from hyla.user_cache import cache_folder
from hyla.whole_files import write_whole

NEVER = 1e30
"""A rate that takes no time."""


def calibration_file() -> Path:
    """Where the measured machine is kept."""
    return cache_folder() / "calibration.json"


def save_calibration(device: Device, file: Path | None = None) -> None:
    """Store a measured machine."""
    file = file or calibration_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = {name: getattr(device, name) for name in ("bytes_per_second", "memory_bytes", "source")}
    rates = {name: asdict(rate) for name, rate in device.rates.items()}
    write_whole(
        file,
        json.dumps(
            {
                **fields,
                "peak_flops": dict(device.peak_flops),
                "rates": rates,
                "measurements": dict(device.measurements),
            },
            indent=1,
        ),
    )


def load_calibration(file: Path | None = None) -> Device:
    """The machine that was measured last. Raises ConfigError when none was, or when the file is damaged."""
    file = file or calibration_file()
    try:
        found = json.loads(file.read_text())
        rates = {name: Rate(**rate) for name, rate in found.pop("rates").items()}
        return machine_of(rates=rates, **found)
    except FileNotFoundError:
        raise ConfigError("this machine is not calibrated; run `hyla cost --calibrate` once") from None
    except OSError:
        raise
    except Exception as error:  # damaged JSON can be anything, and so can what it breaks
        raise ConfigError(f"{file} is damaged ({error}); run `hyla cost --calibrate` again") from None


def machine_of(
    *,
    bytes_per_second: float,
    memory_bytes: float,
    source: str,
    peak_flops: dict,
    rates: dict,
    measurements: dict | None = None,
) -> Device:
    """A measured machine, under the name "this"."""
    return Device(
        "this",
        peak_flops,
        bytes_per_second,
        memory_bytes,
        bytes_per_second,
        source,
        arithmetic="hyla",
        rates=rates,
        measurements=measurements or {},
    )


@dataclass(frozen=True)
class Point:
    """What one call asked of an operator, and how long it took."""

    calls: float
    flops: float
    nbytes: float
    seconds: float


PARTS = ("calls", "flops", "nbytes")


def fit(points: Sequence[Point], parts: Sequence[str] = PARTS) -> Rate:
    """The rate with the least relative error over some points, in which only `parts` take time, none less than none.

    Every choice among them is tried; the best one without a negative part is taken.
    """
    import numpy

    features = numpy.array([[point.calls, point.flops, point.nbytes] for point in points])
    seconds = numpy.array([max(point.seconds, 1e-9) for point in points])
    weighted = features / seconds[:, None]
    best, best_error = numpy.zeros(3), NEVER
    allowed = [PARTS.index(part) for part in parts]
    for size in range(1, len(allowed) + 1):
        for columns in combinations(allowed, size):
            if len(points) < size or not weighted[:, columns].any(axis=0).all():
                continue
            found = numpy.linalg.lstsq(weighted[:, columns], numpy.ones(len(points)), rcond=None)[0]
            error = float(((weighted[:, columns] @ found - 1.0) ** 2).sum())
            if (found >= 0).all() and error < best_error - 1e-12:
                best, best_error = numpy.zeros(3), error
                best[list(columns)] = found
    overhead, per_flop, per_byte = (float(part) for part in best)
    return Rate(1 / per_flop if per_flop else NEVER, 1 / per_byte if per_byte else NEVER, overhead, adds_up=True)
