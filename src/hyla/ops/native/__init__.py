"""The CPU's own kernels: C, compiled once per machine for its processor, where there is a compiler.

They compute every row by the same code whatever comes with it, so what the rest of the package checks about libraries
holds here by construction. `backend()` says what this process uses; results of the two backends differ by rounding.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal

import torch

from hyla.errors import BackendUnavailable

logger = logging.getLogger(__name__)

Backend = Literal["native", "torch"]
_chosen: dict[str, Backend] = {}


@cache
def library():
    """The compiled kernels (`ctypes.CDLL`). Raises BackendUnavailable, with the reason, where they cannot be built."""
    from hyla.ops.native.build import load

    return load()


def backend() -> Backend:
    """What computes on the CPU: "native", or "torch" where they cannot be built (said once) or were not wanted."""
    if "cpu" not in _chosen:
        try:
            library()
            _chosen["cpu"] = "native"
        except BackendUnavailable as error:
            logger.warning("the CPU uses PyTorch's operators: %s", error)
            _chosen["cpu"] = "torch"
    return _chosen["cpu"]


def use(name: Literal["auto", "native", "torch"]) -> None:
    """Choose for the whole process, before any cache is filled. Raises BackendUnavailable for "native" without one."""
    if name == "native":
        library()
    _chosen.clear()
    if name != "auto":
        _chosen["cpu"] = name


def handles(x: torch.Tensor) -> bool:
    """Whether the kernels compute for this tensor: fp32 or bf16 on the CPU."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and backend() == "native"
