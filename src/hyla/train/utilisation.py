"""Model FLOPs utilisation (MFU): what a run's products would need, as a share of what the device multiplies at best."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hyla.cost import DEVICES, train_flops_per_token
from hyla.cost.calibration import load_calibration
from hyla.errors import HylaError
from hyla.models.config import ModelConfig
from hyla.train.config import TrainConfig
from hyla.train.precision import DTYPES

MEASURED_ROWS = 512


@dataclass(frozen=True)
class Utilisation:
    """flops_per_token: forward and backward without recomputation, by the cost model. peak_flops: a second, of large
    products in the run's dtype. source: where that number comes from, for people."""

    flops_per_token: float
    peak_flops: float
    source: str

    def share(self, tokens_per_second: float) -> float:
        """The MFU of a speed."""
        return tokens_per_second * self.flops_per_token / self.peak_flops

    def __str__(self) -> str:
        return f"MFU is a share of {self.peak_flops / 1e9:,.0f} GFLOP/s: {self.source}"


def utilisation(
    model: ModelConfig, train: TrainConfig, lengths: Sequence[int], device: torch.device
) -> Utilisation | None:
    """Of a run whose steps have documents of about these lengths; None where it cannot be known: on a device that no
    table has, and where parameters are frozen, whose gradients the cost model would count."""
    if train.learnt != ("*",) or not lengths:
        return None
    found = peak_of(device, train.dtype)
    if found is None:
        return None
    return Utilisation(train_flops_per_token(model, mean_length(lengths)), *found)


def mean_length(lengths: Sequence[int]) -> int:
    """The length at which a row sees as many earlier rows on average as in these documents."""
    return max(1, round(sum(length * length for length in lengths) / sum(lengths)))


def peak_of(device: torch.device, dtype: str) -> tuple[float, str] | None:
    """(FLOP/s of large products in fp32 or bf16, in words where they are from)."""
    if device.type == "cpu":
        return _of_this_machine(dtype)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        words = set(re.split(r"[^a-z0-9]+", name.lower().replace("rtx ", "rtx")))
        known = next((DEVICES[word] for word in words if word in DEVICES), None)
        if known is not None:
            return known.peak(dtype), f"{dtype} products, {known.source}"
    return None


def _of_this_machine(dtype: str) -> tuple[float, str] | None:
    """As it was calibrated, or else measured now, in a second at most."""
    try:
        return load_calibration().peak(dtype), f"{dtype} products, as `hyla cost --calibrate` measured them"
    except HylaError:
        return measured(dtype), f"{dtype} products of this machine, measured just now"


def processor_seconds() -> float:
    """Time that this process has had, a thread: what its neighbours take does not count."""
    return time.process_time() / torch.get_num_threads()


def measured(dtype: str, clock: Callable[[], float] = processor_seconds) -> float:
    """FLOP/s of one large product with packed weights."""
    from hyla.cost.timing import matmul_rate

    return matmul_rate(DTYPES[dtype], MEASURED_ROWS, clock)
