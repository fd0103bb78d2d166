"""A pretend device: tensors that say `pretend:0` and are computed on the CPU, under a GPU's rules.

What a GPU would refuse is refused: an operation with tensors of two devices. As on CUDA, a CPU tensor without
dimensions may be read (never written), and CPU tensors may be indices. Every copy to the host and every operation that
makes the host wait for a result is counted (`Traffic`), so that computing on the host does not pass unseen.

Registering it changes `torch.accelerator` for the whole process: use it in a process of its own.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import hyla

NAME = "pretend"
PACKAGE = f"{Path(hyla.__file__).parent}/"
HOST = torch.device("cpu")

COPIES = {"aten::_to_copy", "aten::to", "aten::copy_", "aten::_copy_from"}
"""Operations that may see two devices: they move data between them."""

INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations whose indices may be on the CPU."""

WAITING = {
    "aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero", "aten::masked_select",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::histc",
}  # fmt: skip
"""Operations whose result, or the size of it, the host must know before it goes on."""


@dataclass
class Traffic:
    """What crossed to the host while it was counted."""

    copies: int = 0
    copied_bytes: int = 0
    waits: int = 0
    """Operations that make the host wait, the copies not counted."""
    uploads: int = 0
    operations: Counter = field(default_factory=Counter)
    """Calls by operator name: kernels that a device would launch, views among them."""
    places: Counter = field(default_factory=Counter)


_counting: list[Traffic] = []


@contextmanager
def counted():
    """Count what crosses inside."""
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        _counting.remove(traffic)


class PretendTensor(torch.Tensor):
    """A wrapper: `inner` is the CPU tensor with the values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        # Wrappers made under inference_mode could not be versioned later.
        with torch.inference_mode(False):
            return torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=torch.device(NAME, 0),
                requires_grad=False,
            )

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def tolist(self):
        _note("tolist", self.inner, is_copy=True)
        return self.inner.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first")


def _note(name: str, inner: torch.Tensor, *, is_copy: bool) -> None:
    for traffic in _counting:
        if is_copy:
            traffic.copies += 1
            traffic.copied_bytes += inner.numel() * inner.element_size()
        else:
            traffic.waits += 1
        traffic.places[_place(name)] += 1


def _place(name: str) -> str:
    """The operation, and the line of the package that asked for it."""
    import sys

    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    if frame is None:
        return name
    file = frame.f_code.co_filename.removeprefix(PACKAGE)
    return f"{name} {file}:{frame.f_code.co_name}"


def _run(function, args, kwargs):
    name = function._schema.name
    for traffic in _counting:
        traffic.operations[name] += 1
    flat, spec = tree_flatten((args, kwargs))
    _check_devices(function, name, args, flat)
    target = kwargs.get("device")
    inner = [_on_host(value) for value in flat]
    in_args, in_kwargs = tree_unflatten(inner, spec)
    if name in WAITING or (name == "aten::index" and _has_mask(args[1])):
        _note(name, next(value.inner for value in flat if isinstance(value, PretendTensor)), is_copy=False)
    out = function(*in_args, **in_kwargs)
    if name == "aten::_local_scalar_dense":
        return out
    if name in COPIES:
        return _copied(name, args, target, out)
    if function._schema.is_mutable:
        return _same_objects(flat, inner, out)
    return tree_map_only(torch.Tensor, PretendTensor, out)


def _on_host(value):
    if isinstance(value, PretendTensor):
        return value.inner
    return HOST if isinstance(value, torch.device) else value


def _has_mask(indices) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _check_devices(function, name: str, args, flat) -> None:
    """Raise what CUDA raises for two devices in one call."""
    if name in COPIES:
        return
    on_host = [value for value in flat if isinstance(value, torch.Tensor) and not isinstance(value, PretendTensor)]
    if name in INDEXED:
        indices = {id(index) for index in args[1] if index is not None}
        on_host = [value for value in on_host if id(value) not in indices]
        if not isinstance(args[0], PretendTensor):
            raise RuntimeError(f"{name}: a tensor on the cpu is indexed with {NAME}:0")
    if any(value.dim() for value in on_host):
        shapes = [tuple(value.shape) for value in on_host if value.dim()]
        raise RuntimeError(f"{name}: expected all tensors to be on the same device: {NAME}:0 and cpu {shapes}")
    written = [
        a for a, s in zip(args, function._schema.arguments) if s.alias_info is not None and s.alias_info.is_write
    ]
    if any(value is out for value in on_host for out in written):
        raise RuntimeError(f"{name}: a tensor on the cpu cannot be written from {NAME}:0")


def _copied(name: str, args, target, out):
    if name == "aten::copy_":
        destination, source = args[0], args[1]
        if not isinstance(destination, PretendTensor):
            _note("copy to host", source.inner, is_copy=True)
        elif not isinstance(source, PretendTensor):
            _upload()
        return destination
    if target is not None and torch.device(target).type == "cpu":
        _note("copy to host", out, is_copy=True)
        return out
    if not isinstance(args[0], PretendTensor):
        _upload()
    return PretendTensor(out)


def _upload() -> None:
    for traffic in _counting:
        traffic.uploads += 1


def _same_objects(flat, inner, out):
    """An operation in place gives back the wrapper that it was given."""
    known = {id(value): outer for value, outer in zip(inner, flat) if isinstance(value, torch.Tensor)}

    def outer(value: torch.Tensor) -> torch.Tensor:
        return known[id(value)] if id(value) in known else PretendTensor(value)

    return tree_map_only(torch.Tensor, outer, out)


class _Module:
    """What `torch.pretend` offers, as `torch.cuda` does."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def synchronize(device=None) -> None:
        """Nothing runs ahead here."""

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """No generators live on the device."""


_libraries = []


def register() -> torch.device:
    """Make the device known to PyTorch, once per process; returns it."""
    if not _libraries:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        fallback = torch.library.Library("_", "IMPL")
        fallback.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
        aten = torch.library.Library("aten", "IMPL")
        for name in ("empty.memory_format", "empty_strided"):
            aten.impl(name, _factory(name), "PrivateUse1")
        aten.impl("_copy_from", _copy_from, "PrivateUse1")
        _libraries.extend((fallback, aten))
    return torch.device(NAME, 0)


def _factory(name: str):
    packet, _, overload = name.partition(".")
    function = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def make(*args, **kwargs):
        return PretendTensor(function(*args, **{**kwargs, "device": HOST, "pin_memory": None}))

    return make


def _copy_from(source, destination, non_blocking=False):
    _run(torch.ops.aten.copy_.default, (destination, source), {})
    return destination
