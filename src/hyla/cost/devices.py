"""Devices that a model can be costed on, with the sources of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from hyla.cost.calibration import load_calibration
from hyla.cost.device import Device
from hyla.errors import ConfigError

GB, TB = 10**9, 10**12


def _gpu(name: str, tera: tuple[float, float, float | None], memory: float, speed: float, link: float, source: str):
    """tera: TFLOP/s in bf16, fp32, fp8."""
    rates = {dtype: rate * TB for dtype, rate in zip(("bf16", "fp32", "fp8"), tera) if rate}
    return Device(name, MappingProxyType(rates), speed * GB, memory * GB, link * GB, source)


_TABLE = (
    _gpu("a100", (312, 156, None), 80, 2039, 300, "NVIDIA A100 80GB SXM data sheet (fp32: TF32)"),
    _gpu("h100", (989, 494, 1979), 80, 3350, 450, "NVIDIA H100 SXM data sheet, without sparsity (fp32: TF32)"),
    _gpu("h800", (989, 494, 1979), 80, 3350, 200, "as H100, with 400 GB/s of NVLink"),
    _gpu("h200", (989, 494, 1979), 141, 4800, 450, "NVIDIA H200 SXM data sheet, without sparsity (fp32: TF32)"),
    _gpu("h20", (148, 74, 296), 96, 4000, 450, "NVIDIA H20 data sheet as reported by resellers (fp32: TF32)"),
    _gpu("b200", (2250, 1100, 4500), 180, 8000, 900, "NVIDIA HGX B200 at 1000 W, without sparsity (fp32: TF32)"),
    _gpu("mi300x", (1307, 654, 2615), 192, 5300, 448, "AMD Instinct MI300X data sheet (fp32: TF32)"),
    _gpu("l40s", (362, 183, 733), 48, 864, 32, "NVIDIA L40S data sheet, without sparsity (fp32: TF32)"),
    _gpu("rtx4090", (165, 83, 330), 24, 1008, 32, "NVIDIA Ada whitepaper, fp32 accumulation, without sparsity"),
    Device(
        "epyc-2core",
        MappingProxyType({"bf16": 0.80 * TB, "fp32": 0.42 * TB}),
        45 * GB,
        16 * GB,
        10 * GB,
        "measured: two cores of an AMD EPYC with AVX-512 bf16, oneDNN (docs/cost.md)",
        arithmetic="hyla",
        overhead_seconds=1e-4,
    ),
)
DEVICES: Mapping[str, Device] = MappingProxyType({device.name: device for device in _TABLE})


def find_device(name: str) -> Device:
    """A device of the table, or "this": the calibrated machine. Raises ConfigError with the closest names."""
    if name.lower() == "this":
        return load_calibration()
    if name.lower() not in DEVICES:
        close = get_close_matches(name.lower(), DEVICES, n=3, cutoff=0.4)
        advice = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(DEVICES)} and this"
        raise ConfigError(f"unknown device {name!r}; {advice}")
    return DEVICES[name.lower()]
