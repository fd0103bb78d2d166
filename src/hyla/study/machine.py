"""What computes here, in words."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def machine() -> str:
    """Processor and kernels, e.g. "AMD EPYC, avx512_bf16, PyTorch 2.13.0"."""
    import torch

    from hyla.ops import backends, native

    backend = backends.on(torch.device("cpu"))
    kernels = native.build_name() if backend == "native" else backend
    return f"{_processor()}, {kernels}, PyTorch {torch.__version__.split('+')[0]}"


def _processor() -> str:
    """As Linux calls it; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine()
