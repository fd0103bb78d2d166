"""Quantised folders: what their config says, and their packed tensors as plain ones under the published names.

One file per format; `registry.py` finds it by `quant_method`. Names, families and placing know nothing of it. FP8 in
blocks of 128 x 128 is not read here: it stays FP8 in memory (`checkpoints.fp8_rules`).
"""

from hyla.checkpoints.quantised.protocol import Packed, Quantisation
from hyla.checkpoints.quantised.registry import (
    Declared,
    find_declared,
    looks_quantised,
    quantisation_of,
    without_quantisation,
)

__all__ = [
    "Declared",
    "Packed",
    "Quantisation",
    "find_declared",
    "looks_quantised",
    "quantisation_of",
    "without_quantisation",
]
