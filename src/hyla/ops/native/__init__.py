"""The CPU's own kernels: C, compiled once per machine for its processor, where there is a compiler.

They compute every row by the same code whatever comes with it, so what the rest of the package checks about libraries
holds here by construction. Operators reach them through `ops.backends`; results differ from the other backends' by
rounding.
"""

from __future__ import annotations

from functools import cache

import torch

from hyla.errors import BackendUnavailable
from hyla.ops.operands import Operand

DTYPES = (torch.float32, torch.bfloat16)


@cache
def library():
    """The compiled kernels (`ctypes.CDLL`). Raises BackendUnavailable, with the reason, where they cannot be built."""
    from hyla.ops.native.build import load

    return load()


@cache
def why_missing() -> str | None:
    """Why the kernels cannot be built here; None where they can. Compiles them at the first call."""
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
