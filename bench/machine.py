"""Where and when a benchmark ran."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "numpy", "transformers")


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit_of(folder: Path) -> str | None:
    """The commit of a checkout, with "-dirty" where files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None


def cpu_backend() -> str | None:
    """What computes on the CPU, asked of whichever module of the measured sources knows (if it was imported)."""
    backends, native = sys.modules.get("hyla.ops.backends"), sys.modules.get("hyla.ops.native")
    if backends is not None and hasattr(backends, "on"):
        return backends.on(sys.modules["torch"].device("cpu"))
    return native.backend() if native is not None and hasattr(native, "backend") else None


def native_build() -> str | None:
    """Which build of the CPU's kernels was measured, if the measured sources have several and one was loaded."""
    backends = sys.modules.get("hyla.ops.backends")
    if not hasattr(backends, "native_build"):
        return None
    return backends.native_build(sys.modules["torch"].device("cpu"))


def facts() -> dict:
    """Machine, date, versions, and the sources that were measured. Call it when all is imported."""
    torch, hyla = sys.modules.get("torch"), sys.modules.get("hyla")
    source = Path(hyla.__file__).parents[1] if hyla else None
    found = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": processor_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads() if torch else None,
        "load": [round(value, 2) for value in os.getloadavg()],
        "cpu_backend": cpu_backend(),
        "native_build": native_build(),
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
        "source": str(source) if source else None,
        "commit": commit_of(source) if source else None,
    }
    return {name: value for name, value in found.items() if value is not None}
