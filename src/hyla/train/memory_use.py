"""How much memory a run holds, as the operating system or the device's allocator says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

STATUS = Path("/proc/self/status")


class MemoryUse(NamedTuple):
    """Bytes. peak: the most that this process has held so far."""

    now: int
    peak: int


def memory_use(device: torch.device) -> MemoryUse | None:
    """On the CPU resident memory of the process, on another device that of its tensors; None where nobody says it."""
    if device.type == "cpu":
        return _resident()
    module = getattr(torch, device.type, None)
    if module is None or not hasattr(module, "max_memory_allocated"):
        return None
    return MemoryUse(module.memory_allocated(device), module.max_memory_allocated(device))


def _resident() -> MemoryUse | None:
    """As Linux says it; None elsewhere."""
    try:
        text = STATUS.read_text()
    except OSError:
        return None
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE))
    if len(found) < 2:
        return None
    return MemoryUse(1024 * int(found["VmRSS"]), 1024 * int(found["VmHWM"]))
