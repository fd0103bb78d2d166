"""Which code computes an operator: resolved once for each operator, device and dtype, kept, and said.

An operator is a folder below `hyla.ops`, named by its path there ("kda", "exact.primitives"). It has a module for each
backend, with the same functions, and each module says in `unsupported` why it cannot compute for some operands. The
first backend of the choice (`use`) that has no such reason computes; the reasons of the others are kept for `report`.

Backends differ by rounding. So what was resolved stays, and a cache that was filled under one choice refuses to go on
under another (`caches.pool`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from hyla.errors import ConfigError
from hyla.ops import native
from hyla.ops.operands import Operand

logger = logging.getLogger(__name__)

CHOICES: dict[str, tuple[str, ...]] = {
    "auto": ("native", "torch", "portable"),
    "native": ("native", "torch", "portable"),
    "torch": ("torch", "portable"),
    "portable": ("portable",),
}
"""What `use` takes, and the backends that are tried for it, in turn. Another backend, or another arithmetic of the
torch one, is a line here and one in MODULES."""

MODULES = {"native": "native", "torch": "pytorch", "portable": "pytorch"}
"""The module of each backend in an operator's folder. "portable" is the same code over other products and sums
(`ops.exact.portable`), for devices whose library nothing is known of."""

KNOWN_ON_THE_CPU = "how the library sums is known on the CPU only"

NO_KERNEL = "no kernel for this operator"

_choice = "auto"
_table: dict[tuple, ModuleType] = {}


@dataclass(frozen=True)
class Resolved:
    """What computes an operator, and why others do not."""

    operator: str
    backend: str
    reasons: dict[str, str]
    """Why another backend does not compute, by backend."""

    @property
    def module(self) -> ModuleType:
        return _module(self.operator, self.backend)

    def plain(self) -> dict:
        """As data for JSON: {"backend": ..., "not": {backend: reason}}."""
        return {"backend": self.backend, "not": dict(self.reasons)}


def runs_anywhere(*operands: Operand) -> str | None:
    """`unsupported` of a module made of PyTorch's operators: every device, every dtype."""
    return None


def has_no_kernel(*operands: Operand) -> str | None:
    """`unsupported` of a module that is only there to say that its backend has no kernel."""
    return NO_KERNEL


def use(name: str) -> None:
    """Choose for the whole process (a key of CHOICES), before any cache is filled.

    Raises ConfigError for an unknown name and BackendUnavailable, with the reason, for "native" where there is none.
    """
    global _choice
    if name not in CHOICES:
        raise ConfigError(f"backend {name!r} is unknown; there are {', '.join(CHOICES)}")
    if name == "native":
        native.library()
    _choice = name
    _table.clear()
    _say.cache_clear()


@contextmanager
def using(name: str) -> Iterator[None]:
    """`use(name)` for a while, then the choice that was before: for comparisons. A cache that was filled outside is not
    to be used inside. Raises as `use`, changing nothing."""
    before = _choice
    use(name)
    try:
        yield
    finally:
        use(before)


def choose(operator: str, *tensors: torch.Tensor | None) -> ModuleType:
    """The backend's module that computes this operator for such tensors: a look-up after the first time."""
    key = (operator, *[(x.device.type, x.dtype, x.shape[-1]) for x in tensors if x is not None])
    module = _table.get(key)
    if module is None:
        resolved = resolve(operator, *(Operand(*fields) for fields in key[1:]))
        on_cpu = all(device == "cpu" for device, *_ in key[1:])
        _say(resolved.operator, resolved.backend, on_cpu, *resolved.reasons.items())
        module = _table[key] = resolved.module
    return module


def resolve(operator: str, *operands: Operand) -> Resolved:
    """The first backend of the choice that can compute for these operands."""
    reasons = {name: f"the choice is {_choice!r}" for name in MODULES if name not in CHOICES[_choice]}
    for backend in CHOICES[_choice]:
        reason = _unsupported(operator, backend, operands)
        if reason is None:
            return Resolved(operator, backend, reasons)
        reasons[backend] = reason
    raise AssertionError(f"the last backend of {_choice!r} must compute everything; {operator}: {reasons}")


def _unsupported(operator: str, backend: str, operands: Sequence[Operand]) -> str | None:
    if backend == "torch" and any(operand.device != "cpu" for operand in operands):
        return KNOWN_ON_THE_CPU
    return _module(operator, backend).unsupported(*operands)


def on(device: torch.device) -> str:
    """The first backend of the choice that computes on this device at all: what a cache's bits depend on."""
    reasons = {"native": native.unsupported(Operand(device.type, torch.float32))}
    if device.type != "cpu":
        reasons["torch"] = KNOWN_ON_THE_CPU
    return next(backend for backend in CHOICES[_choice] if reasons.get(backend) is None)


def native_build(device: torch.device) -> str | None:
    """Which build of the CPU's kernels computes on this device (docs/backends.md); None where none does."""
    return native.build_name() if on(device) == "native" else None


def is_portable(device: torch.device) -> bool:
    """Whether products and sums on this device are the portable ones. A look at a string: asked at every product."""
    return device.type != "cpu" or _choice == "portable"


def uses_native(x: torch.Tensor) -> bool:
    """Whether the CPU's kernels compute with x under this choice: for products, which are asked for too often and with
    too many shapes for `choose`, and for what has the same bits either way."""
    return _uses_native(_choice, x.device.type, x.dtype)


def report(operators: Iterable[str], device: torch.device, dtype: torch.dtype) -> dict[str, dict]:
    """By operator, as plain data: what computes it on this device in this dtype, and why others do not."""
    operand = Operand(device.type, dtype)
    return {name: resolve(name, operand).plain() for name in sorted(set(operators))}


def describe(found: dict[str, dict]) -> list[str]:
    """A report in lines, one for each backend and reason: "torch (native: no kernel for this operator): moe"."""
    lines: dict[str, list[str]] = {}
    for operator, entry in found.items():
        why = "; ".join(f"{backend}: {reason}" for backend, reason in entry["not"].items())
        lines.setdefault(entry["backend"] + (f" ({why})" if why else ""), []).append(operator)
    return [f"{what}: {', '.join(operators)}" for what, operators in lines.items()]


@cache
def _uses_native(choice: str, device: str, dtype: torch.dtype) -> bool:
    return "native" in CHOICES[choice] and native.unsupported(Operand(device, dtype)) is None


@cache
def _module(operator: str, backend: str) -> ModuleType:
    return import_module(f"hyla.ops.{operator}.{MODULES[backend]}")


@cache
def _say(operator: str, backend: str, on_cpu: bool, *reasons: tuple[str, str]) -> None:
    """Once for each operator and reason; once as a warning where the CPU cannot use its kernels."""
    # Asking compiles them, which another device has no use for.
    missing = native.why_missing() if on_cpu and any(reason != NO_KERNEL for _, reason in reasons) else None
    if missing is not None and missing in dict(reasons).values():
        _warn(missing)
    why = "".join(f" ({name}: {reason})" for name, reason in reasons)
    logger.info("%s is computed by %s%s", operator, backend, why)


@cache
def _warn(missing: str) -> None:
    logger.warning("the CPU uses PyTorch's operators: %s", missing)
