"""FP8 (E4M3) with one scale for a matrix or for each output: quant_method "fp8" without blocks, and "fbgemm_fp8".

W = code * scale. Needs no PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyla.checkpoints.quantised.protocol import Packed
from hyla.checkpoints.quantised.scaled import FP8, scaled
from hyla.checkpoints.quantised.stored import Headers
from hyla.models.formats.published import Strict

READS = "FP8 (e4m3) weights with one scale for a matrix, for each output, or for blocks of 128 x 128"
ROLES = {".weight": "codes", ".weight_scale": "scales", ".weight_scale_inv": "scales"}
INERT = frozenset(
    {
        *("quant_method", "modules_to_not_convert", "ignored_layers", "packed_modules_mapping", "modules_to_convert"),
        *("activation_scale_ub", "kv_cache_scheme", "scale_fmt", "weight_block_size"),
    }
)
"""Lists of modules (the files say which are FP8), and what other engines do to activations."""


class FP8Keys(Strict):
    """HANDLED keys."""

    fmt: Literal["e4m3", "float8_e4m3fn"] = "e4m3"
    activation_scheme: Literal["dynamic", "static"] = "dynamic"
    """How other engines round activations; here they are not quantised."""
    expert_dtype: Literal["fp8"] = "fp8"
    dequantize: bool = False


@dataclass(frozen=True)
class PlainFP8:
    """A `Quantisation`."""

    title: str

    def find(self, headers: Headers) -> dict[str, Packed]:
        return fp8_weights(headers)


def fp8_weights(headers: Headers, block: tuple[int, int] | None = None) -> dict[str, Packed]:
    """Every FP8 `.weight` with the scales beside it."""
    found = {}
    for module, parts in headers.modules(ROLES).items():
        if "codes" in parts and headers.source.dtype(parts["codes"]) == FP8:
            headers.need(module, parts, (".weight_scale", "scales"))
            found[parts["codes"]] = scaled(headers, parts, FP8, block=block, label="FP8")
    return found
