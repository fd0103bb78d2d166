"""The CPU's own kernels in C, built for several sets of instructions: shipped with the wheel, or compiled at first use.

They compute every row by the same code whatever comes with it, so what the rest of the package checks about libraries
holds here by construction. Operators reach them through `ops.backends`; results differ from the other backends' by
rounding.
"""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from hyla.errors import BackendUnavailable
from hyla.ops.operands import Operand

DTYPES = (torch.float32, torch.bfloat16)


@cache
def _loaded():
    from hyla.ops.native.build import load

    library, build = load()
    follow_threads(library)
    return library, build


def follow_threads(library: ctypes.CDLL) -> None:
    """Let loops have as many threads as PyTorch's, at every call: `torch.set_num_threads`, OMP_NUM_THREADS."""
    # PyTorch's own function, found through the library that needs it: a callback into Python would take microseconds.
    library.hyla_follow_threads(ctypes.CDLL(torch._C.__file__)._ZN2at15get_num_threadsEv)


@cache
def library():
    """The kernels (`ctypes.CDLL`). Raises BackendUnavailable, with the reason, where they cannot be had."""
    return _loaded()[0]


def build_name() -> str | None:
    """Which build of the kernels this process uses (`build.BUILDS`); None where it has none."""
    return None if why_missing() is not None else _loaded()[1].name


def forget() -> None:
    """Load again at the next use: for tests that change what there is to load."""
    for remembered in (_loaded, library, why_missing):
        remembered.cache_clear()


@cache
def why_missing() -> str | None:
    """Why the kernels cannot be had here; None where they can. Compiles them at the first call."""
    try:
        library()
    except BackendUnavailable as error:
        return str(error)
    return None


def unsupported(*operands: Operand) -> str | None:
    """Why the kernels do not compute for such operands: they are for fp32 and bf16 on the CPU.

    The compiler is asked last: nothing is compiled for a device that does not use it.
    """
    for operand in operands:
        if operand.device != "cpu":
            return f"for the CPU, not for {operand.device}"
        if operand.dtype not in DTYPES:
            return f"no kernels in {str(operand.dtype).removeprefix('torch.')}"
    return why_missing()
