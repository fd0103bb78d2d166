"""What a device is: peak rates of dense products, memory, bandwidth, links, and what each operator reaches of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from hyla.models.kinds import RECURRENT_OPERATORS


@dataclass(frozen=True)
class Rate:
    """What one kind of operator reaches on a device."""

    flops_per_second: float
    bytes_per_second: float
    overhead_seconds: float
    """Of one call, whatever its size."""
    adds_up: bool = False
    """Whether FLOPs and bytes take time one after the other (as fitted on a CPU) instead of at once."""

    def parts(self, flops: float, nbytes: float) -> tuple[float, float]:
        """Seconds for the FLOPs and for the bytes."""
        return flops / self.flops_per_second, nbytes / self.bytes_per_second


@dataclass(frozen=True)
class Efficiency:
    """Parts of the device's peaks that an operator reaches."""

    compute: float
    memory: float


EFFICIENCIES: Mapping[str, Efficiency] = MappingProxyType(
    {
        "projection": Efficiency(0.70, 0.80),
        "experts": Efficiency(0.50, 0.75),
        "attention": Efficiency(0.60, 0.75),
        "indexer": Efficiency(0.40, 0.75),
        **dict.fromkeys(RECURRENT_OPERATORS, Efficiency(0.15, 0.60)),
        "head": Efficiency(0.70, 0.80),
        "embedding": Efficiency(1.0, 0.50),
        "elementwise": Efficiency(1.0, 0.70),
    }
)
"""By operator, for the devices of the table; a calibrated machine has measured rates instead.

Projections and heads: large cuBLAS products. Experts: grouped products over uneven groups. Attention: FlashAttention 3
reaches 0.75 of an H100 (arXiv 2407.08608) and earlier kernels less. Recurrences in chunks: from published times and our
FLOPs (T 8192, 96 heads of 128): FlashKDA 0.30 of an H20, fla's chunk_kda 0.16 of it, fla's gated delta rule 0.04 of a
GB200; 0.15 stands between. Memory: large reads reach 0.8 to 0.9 of the sheet's bandwidth, paged and strided ones less.
"""


@dataclass(frozen=True)
class Device:
    """One device. Rates are of dense products, without sparsity."""

    name: str
    peak_flops: Mapping[str, float]
    """FLOP/s by dtype of the product: "bf16", "fp32" (matrix units in TF32 where there are any), "fp8" if it has it."""
    bytes_per_second: float
    memory_bytes: float
    link_bytes_per_second: float
    """To the other devices of its group, one direction."""
    source: str
    arithmetic: Literal["hyla", "usual"] = "usual"
    """Which arithmetic a model runs there (`hyla.cost.work`), unless it is asked for another."""
    overhead_seconds: float = 3e-6
    """Start of one operator inside a captured graph."""
    rates: Mapping[str, Rate] = field(default_factory=dict)
    """Measured rates of a calibrated machine: by "operator/kind/phase", "operator/dtype/phase", "operator/phase" or
    operator, the first that is there; phases are "decode" and "prefill"."""

    measurements: Mapping[str, float] = field(default_factory=dict)
    """FLOP/s of products by dtype and number of rows, of a calibrated machine: for people."""

    def peak(self, dtype: str) -> float:
        """FLOP/s of products in a dtype, or in the nearest one that the device multiplies."""
        return self.peak_flops.get(dtype) or self.peak_flops["bf16"]

    def rate(self, operator: str, kind: str, dtype: str, *, is_decode: bool) -> Rate:
        """What an operator reaches. kind: of the sublayer that it stands in; dtype: of its products."""
        phase = "decode" if is_decode else "prefill"
        for name in (f"{operator}/{kind}/{phase}", f"{operator}/{dtype}/{phase}", f"{operator}/{phase}", operator):
            if name in self.rates:
                return self.rates[name]
        part = EFFICIENCIES[operator]
        return Rate(part.compute * self.peak(dtype), part.memory * self.bytes_per_second, self.overhead_seconds)
