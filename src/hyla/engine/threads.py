"""How many threads compute, on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CPUS = Path("/sys/devices/system/cpu")
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def use_threads(wanted: int | None) -> list[str]:
    """Compute with so many threads: PyTorch's operations, and our kernels, which have as many. None: leave it.

    Returns what had to be lowered: threads that share a processor would wait for each other.
    """
    if wanted is None:
        return []
    most = quota(usable_cpus())
    torch.set_num_threads(min(wanted, most))
    return [f"threads={wanted} became {most}: this process may use no more processors"] if wanted > most else []


def default_threads() -> int:
    """For a process that does nothing else: what OMP_NUM_THREADS says, or the cores that it may use.

    Two threads of one core share what computes, so it is cores that count.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    return min(torch.get_num_threads(), quota(usable_cores()))


def usable_cpus() -> int:
    """Processors that the system lets this process use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores(folder: Path = CPUS) -> int:
    """The cores of these processors, where the system tells which belong together; else the processors."""
    if not hasattr(os, "sched_getaffinity"):
        return usable_cpus()
    siblings = (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in os.sched_getaffinity(0))
    return len({file.read_text() if file.exists() else str(file) for file in siblings})


def quota(cores: int, groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """No more than the control group's share of the processors' time, rounded down, but one at least.

    Of this process's group and those around it (version 2, "cpu.max": microseconds in a period of so many).
    """
    path = Path(own.read_text().rpartition("::")[2].strip().lstrip("/") if own.exists() else "")
    for folder in (path, *path.parents):
        file = groups / folder / "cpu.max"
        words = file.read_text().split() if file.exists() else ["max"]
        if words[0] != "max":
            cores = min(cores, max(1, int(words[0]) // int(words[1])))
    return cores
