"""Compiling the kernels: once per source, compiler and processor, into the user's cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from hyla.errors import BackendUnavailable
from hyla.user_cache import cache_folder

WORDS = ("vendor_id", "model", "flags", "Features", "CPU part")
"""How the lines of /proc/cpuinfo begin that say which processor it is."""
COMPILERS = ("gcc", "cc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
INTEL_FLAGS = ("-mtune=generic",)
"""gcc 12 takes many (virtual) Intel processors for a Rocket Lake, and then moves vectors through the stack in the
innermost loops: 70 ms instead of 11 for a gated-delta layer of 512 tokens, to the same bits."""
SECONDS = 120


def load() -> ctypes.CDLL:
    """The library, compiled now if it is not in the cache. Raises BackendUnavailable."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise BackendUnavailable("no C compiler (gcc or clang) was found; on Debian: sudo apt install gcc libc6-dev")
    file = cache_folder() / f"kernels-{_key(compiler)}.so"
    try:
        if not file.exists():
            _compile(compiler, file)
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise BackendUnavailable(f"{file} cannot be made or loaded: {error}") from error


def sources() -> list[Path]:
    """The C files and what they include."""
    folder = Path(__file__).parent
    return sorted([*folder.glob("*.c"), *folder.glob("*.h")])


def _key(compiler: str) -> str:
    digest = hashlib.sha256()
    for file in sources():
        digest.update(file.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=SECONDS).stdout
    for part in (" ".join(_flags()).encode(), version, platform.machine().encode(), _processor().encode()):
        digest.update(part)
    return digest.hexdigest()[:16]


def _flags() -> tuple[str, ...]:
    return FLAGS + INTEL_FLAGS * ("GenuineIntel" in _processor())


def _processor() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else [platform.processor()]
    return "\n".join(line for line in lines if line.startswith(WORDS))


def _compile(compiler: str, file: Path) -> None:
    """Appears whole, by rename: another process may be compiling the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        command = [
            compiler,
            *_flags(),
            *(str(path) for path in sources() if path.suffix == ".c"),
            "-o",
            str(made),
            "-lm",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BackendUnavailable(f"compiling the kernels took more than {SECONDS} seconds") from error
        if done.returncode:
            raise BackendUnavailable(f"{compiler} could not compile the kernels: {done.stderr.strip()[-400:]}")
        os.replace(made, file)
