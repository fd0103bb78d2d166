"""Which build of the kernels this processor runs, and where it comes from: the wheel, the user's cache, or a compiler.

One source is built for several sets of instructions (`BUILDS`), each with flags of its own: what a compiler would make
of an unknown or virtual processor (`-march=native`) is never asked. All builds give the same bits.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hyla.errors import BackendUnavailable, ConfigError
from hyla.user_cache import cache_folder

logger = logging.getLogger(__name__)

VARIABLE = "HYLA_KERNELS"
"""Environment variable with the name of a build that is to run, instead of the first that the processor has."""

COMPILERS = ("gcc", "cc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-fPIC")
SECONDS = 600
"""For one file of C: beside other work it may take a hundred times its usual second or five."""
SHIPPED = Path(__file__).parent / "shipped"
"""Builds that came with the wheel."""


@dataclass(frozen=True)
class Build:
    """The kernels for one set of instructions."""

    name: str
    machine: str | None
    """As `machine()` says; None: any."""
    needs: frozenset[str]
    """Flags of the processor, as Linux spells them."""
    flags: tuple[str, ...]
    """For the compiler, which gets no other word on the processor."""
    is_chosen: bool = True
    """Whether it runs unasked."""


AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2")
AVX512 = (*AVX2, "-mavx512f", "-mavx512cd", "-mavx512bw", "-mavx512dq", "-mavx512vl")
NEON = ("-fno-schedule-insns",)
"""gcc would load all that a loop needs before it uses any of it, into more registers than there are."""
BF16 = (*AVX512, "-mavx512bf16", "-mavx512vbmi")
AVX2_NEEDS = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2"})
AVX512_NEEDS = AVX2_NEEDS | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}

BF16_NEEDS = AVX512_NEEDS | {"avx512_bf16", "avx512vbmi"}
TILES_NEED = frozenset({"amx_tile", "amx_bf16"})

BUILDS = (
    Build("amx", "x86_64", BF16_NEEDS | TILES_NEED, (*BF16, "-mamx-tile", "-mamx-bf16"), is_chosen=False),
    Build("avx512_bf16", "x86_64", BF16_NEEDS, BF16),
    Build("avx512", "x86_64", AVX512_NEEDS, AVX512),
    Build("avx2", "x86_64", AVX2_NEEDS, AVX2),
    Build("neon", "aarch64", frozenset(), NEON),
    Build("plain", None, frozenset(), (), is_chosen=False),
)
"""Best first. "amx" sums products of bf16 in an order of its own, that of the processor's matrix tiles; so far it was
compiled and emulated only, so it runs when it is asked for. "plain" is C without a word about vectors, to compare the
others with: its fused multiply-adds may be calls of a library, so it is slow."""


def machine() -> str:
    """The processor's architecture in one spelling: x86_64, aarch64, ..."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def processor_flags() -> frozenset[str]:
    """What the processor can, as Linux spells it; elsewhere what PyTorch found out about it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        return frozenset(next((text for name, _, text in lines if name.strip() in ("flags", "Features")), "").split())
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": AVX512_NEEDS, "AVX2": AVX2_NEEDS}.get(capability, frozenset())


def runnable() -> tuple[Build, ...]:
    """The builds that this processor can run, best first."""
    here, flags = machine(), processor_flags()
    return tuple(build for build in BUILDS if build.machine in (None, here) and build.needs <= flags)


def candidates() -> tuple[Build, ...]:
    """The builds to try, in turn: the one that was asked for, or those that the processor can run.

    Raises ConfigError for a build that is unknown or beyond the processor, BackendUnavailable where there is none.
    """
    able, asked = runnable(), os.environ.get(VARIABLE)
    if asked:
        found = tuple(build for build in able if build.name == asked)
        if not found:
            names = ", ".join(build.name for build in able)
            raise ConfigError(f"{VARIABLE} is {asked!r}, which is no build that this processor runs; it runs {names}")
        return found
    chosen = tuple(build for build in able if build.is_chosen)
    if not chosen:
        raise BackendUnavailable(
            f"the kernels are for AVX2 with FMA, AVX-512 and NEON; this processor ({machine()}) has none of them"
        )
    return chosen


def load() -> tuple[ctypes.CDLL, Build]:
    """The library and which build it is: from the wheel, from the cache, or compiled now.

    A compiler that does not know a build's instructions leaves the next one. Raises BackendUnavailable where none can
    be had, and ConfigError as `candidates`.
    """
    errors = []
    for build in candidates():
        try:
            return _load(build), build
        except BackendUnavailable as error:
            errors.append(error)
            logger.info("the kernels for %s: %s", build.name, error)
    raise errors[0]


def _load(build: Build) -> ctypes.CDLL:
    library = _found(build)
    if build.needs >= TILES_NEED and library.hyla_tiles_refused():
        raise BackendUnavailable("the system does not let this process use the processor's matrix tiles")
    return library


def _found(build: Build) -> ctypes.CDLL:
    shipped = SHIPPED / file_name(build)
    if shipped.exists():
        return _opened(shipped)
    file = cached(build, find_compiler())
    try:
        return _opened(file)
    except BackendUnavailable as error:
        logger.warning("%s; it is compiled again", error)
        file.unlink(missing_ok=True)
        return _opened(cached(build, find_compiler()))


def _opened(file: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise BackendUnavailable(f"{file} cannot be loaded: {error}") from error


def sources() -> list[Path]:
    """The C files and what they include."""
    folder = Path(__file__).parent
    return sorted([*folder.glob("*.c"), *folder.glob("*.h")])


def file_name(build: Build) -> str:
    """Of a shipped build: it changes with the sources and the flags, so that an old one is never taken."""
    digest = hashlib.sha256(" ".join((*FLAGS, *build.flags)).encode())
    for file in sources():
        digest.update(file.read_bytes())
    return f"kernels-{build.name}-{digest.hexdigest()[:16]}.so"


def cached(build: Build, compiler: str) -> Path:
    """The build's file in the user's cache, compiled now if it is not there. Raises BackendUnavailable."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=SECONDS).stdout
    file = cache_folder() / f"{hashlib.sha256(version).hexdigest()[:8]}-{file_name(build)}"
    try:
        if not file.exists():
            compile_to(file, build, compiler)
    except OSError as error:
        raise BackendUnavailable(f"{file} cannot be made: {error}") from error
    return file


def find_compiler() -> str:
    """The path of a C compiler. Raises BackendUnavailable."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise BackendUnavailable("no C compiler (gcc or clang) was found; on Debian: sudo apt install gcc libc6-dev")
    return compiler


def compile_to(file: Path, build: Build, compiler: str) -> None:
    """It appears whole, by rename: another process may be compiling the same. Raises BackendUnavailable.

    The C files are compiled side by side: together they take one core long enough to be noticed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        codes = [path for path in sources() if path.suffix == ".c"]
        objects = [Path(folder) / f"{path.stem}.o" for path in codes]
        commands = [
            [compiler, *FLAGS, *build.flags, "-c", str(code), "-o", str(out)] for code, out in zip(codes, objects)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(_run, commands):
                pass
        _run([compiler, *FLAGS, "-shared", *map(str, objects), "-o", str(made), "-lm"])
        os.replace(made, file)


def _run(command: list[str]) -> None:
    """Raises BackendUnavailable."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BackendUnavailable(f"compiling the kernels took more than {SECONDS} seconds") from error
    if done.returncode:
        raise BackendUnavailable(f"{command[0]} could not compile the kernels: {done.stderr.strip()[-400:]}")
