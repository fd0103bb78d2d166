"""Where tensors live: from a name to a device that is there, and when its work is done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from hyla.errors import CapacityError, ConfigError

WORKSPACE_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")
"""What the libraries read on their own: the scratch memory decides which of their routines are chosen."""


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of a name as PyTorch writes it ("cpu", "cuda", "cuda:1"), with its index where it has one.

    Raises ConfigError, with what is there instead, for a name that means nothing or a device that this machine lacks.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device = {str(name)!r} is no device that PyTorch knows; write cpu, cuda or cuda:N"
        ) from error
    if device.type == "cpu":
        return device
    module = getattr(torch, device.type, None)
    count = module.device_count() if module is not None and hasattr(module, "device_count") else 0
    if device.type == "meta" or not count:
        raise ConfigError(f"device = {str(name)!r}: {_why_absent(device.type)}; use device = 'cpu'")
    if (device.index or 0) >= count:
        raise ConfigError(f"device = {str(name)!r}: this machine has {count} of that kind, numbered from 0")
    prepare(device)
    return torch.device(device.type, device.index or 0)


def prepare(device: torch.device) -> None:
    """What must be set before the first product on a device. Called wherever one is chosen, and by the row checks."""
    if device.type == "cuda":
        _use_full_precision()


@cache
def _use_full_precision() -> None:
    """Sums of products on CUDA in fp32, and fp32 operands as they are, for the whole process; once.

    By default bf16 and fp16 products may be added up in 16 bits, in as many parts as suits the number of rows.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.set_float32_matmul_precision("highest")  # no TF32
    torch.backends.cudnn.allow_tf32 = False


def _why_absent(kind: str) -> str:
    if kind == "cuda" and not torch.backends.cuda.is_built():
        return f"this build of PyTorch ({torch.__version__}) is for the CPU alone"
    return f"PyTorch {torch.__version__} finds no {kind} device on this machine"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given: before a clock is read. Nothing to wait for on the CPU."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def facts(device: torch.device) -> dict[str, str | int]:
    """What the bits of this device's library depend on beside PyTorch's version; empty for the CPU, and nothing of
    CUDA is touched then."""
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    found: dict[str, str | int] = {
        "card": f"{properties.name}, {properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver_version(),
        "cuda": str(torch.version.cuda),
        "cublas": _cublas_version(),
    }
    found["deterministic"] = int(torch.are_deterministic_algorithms_enabled())
    return found | {name.lower(): os.environ.get(name, "") for name in WORKSPACE_VARIABLES}


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a device of its own memory has for this process; None for the CPU, and where nobody says it."""
    module = getattr(torch, device.type, None)
    if device.type == "cpu" or module is None or not hasattr(module, "mem_get_info"):
        return None
    free = module.mem_get_info(device)[0]
    if hasattr(module, "memory_reserved"):  # what PyTorch holds and nothing uses
        free += module.memory_reserved(device) - module.memory_allocated(device)
    return free


def _driver_version() -> str:
    """As the kernel's module says it: "580.65.06"; empty where it does not."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8", errors="replace") as file:
            found = re.search(r"\d+\.\d+(\.\d+)?", file.read())
    except OSError:
        return ""
    return found[0] if found else ""


def _cublas_version() -> str:
    """Of the library that this process uses: "13.1.0.3"; empty where no package says it."""
    from importlib import metadata

    major = str(torch.version.cuda or "").partition(".")[0]
    for name in ("nvidia-cublas", f"nvidia-cublas-cu{major}"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


@contextmanager
def says_what_to_lower(device: torch.device, doing: str, advice: str) -> Iterator[None]:
    """Turn a device's want of memory into one line: CapacityError "cuda:0 has too little memory for `doing` (...);
    `advice`"."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        free = re.search(r"([\d.]+ \w+) is free", str(error))
        details = [f"asked for {asked[1]}" if asked else str(error).partition("\n")[0]]
        details += [f"{free[1]} are free"] if free else []
        # Without the cause: its traceback would keep the step's tensors alive.
        raise CapacityError(f"{device} has too little memory for {doing} ({', '.join(details)}); {advice}") from None
