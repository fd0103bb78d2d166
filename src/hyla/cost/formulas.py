"""The operators' cost formulas, `ops/<operator>/cost.py`, loaded without their operators.

An operator's package imports PyTorch, its formulas do not: they are read as files, so that the arithmetic of this
package answers before PyTorch would have been loaded.
"""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

OPERATORS = Path(__file__).parents[1] / "ops"


def _formulas(operator: str) -> ModuleType:
    spec = spec_from_file_location(f"hyla.cost.formulas.{operator}", OPERATORS / operator / "cost.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


attention = _formulas("attention")
gated_delta = _formulas("gated_delta")
kda = _formulas("kda")
lightning = _formulas("lightning")
linear = _formulas("linear")
moe = _formulas("moe")
short_conv = _formulas("short_conv")
sparse = _formulas("sparse")
ssd = _formulas("ssd")
weights = _formulas("weights")
