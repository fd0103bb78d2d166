"""NVIDIA's Model Optimizer: FP8 and NVFP4. Source: the format of its export; the files say which weight is what.

FP8: W = code * weight_scale. NVFP4: W = code (weight_scale * weight_scale_2). Needs no PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyla.checkpoints.quantised.fp8 import fp8_weights
from hyla.checkpoints.quantised.keys import Declared, shown
from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.scaled import nvfp4
from hyla.checkpoints.quantised.stored import Headers
from hyla.errors import ConfigError
from hyla.models.formats.published import Strict

READS = "ModelOpt's FP8 and NVFP4 weights"
ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4")
MIXED = "MIXED_PRECISION"
ROLES = {".weight": "codes", ".weight_scale": "scales", ".weight_scale_2": "global", ".pre_quant_scale": "smoothing"}
INERT = frozenset(
    {
        *("quant_method", "config_groups", "ignore", "exclude_modules", "producer", "kv_cache_scheme"),
        *("kv_cache_quant_algo", "version", "weights", "input_activations", "output_activations", "targets"),
    }
)
"""Who wrote it, what the algorithm says as well, lists of modules (the files say which are quantised), and the cache,
which is not quantised here."""
BLOCK = (128, 128)


class ModelOptKeys(Strict):
    """HANDLED keys, of config.json or below `quantization` in hf_quant_config.json."""

    quant_algo: str
    group_size: Literal[16, 128] | None = None
    quantized_layers: dict | None = None
    """Of mixed precision: the algorithm of each module."""
    has_zero_point: Literal[False] = False
    pre_quant_scale: Literal[False] = False


def modelopt(declared: Declared) -> ModelOpt:
    """Raises ConfigError for an algorithm that is not read."""
    keys = declared.read(ModelOptKeys, READS, inert=INERT)
    layers = keys.quantized_layers or {}
    asked = {keys.quant_algo}
    if keys.quant_algo.upper() == MIXED:
        asked = {str(layer.get("quant_algo") if isinstance(layer, dict) else layer) for layer in layers.values()}
    unknown = sorted(name for name in asked if name.upper() not in ALGORITHMS)
    if unknown:
        raise ConfigError(
            f"quantization_config: quant_algo = {shown(unknown[0])} in {declared.where}: Hyla reads "
            f"{', '.join(ALGORITHMS)}; take another quantisation, or fetch the unquantised checkpoint"
        )
    return ModelOpt(", ".join(sorted(asked)) or MIXED)


@dataclass(frozen=True)
class ModelOpt:
    """A `Quantisation`."""

    algorithms: str

    @property
    def title(self) -> str:
        return f"ModelOpt {self.algorithms}"

    def find(self, headers: Headers) -> dict[str, Packed]:
        found = fp8_weights(headers, BLOCK)
        for module, parts in headers.modules(ROLES).items():
            if "smoothing" in parts:
                headers.refuse(parts["smoothing"], "scales activations before the product, which Hyla does not do")
            if "codes" in parts and headers.source.dtype(parts["codes"]) == "U8":
                headers.need(module, parts, (".weight_scale", "scales"), (".weight_scale_2", "global"))
                found[parts["codes"]] = nvfp4(headers, parts, divides=False)
        return found
