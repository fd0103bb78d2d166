"""The operators' cost formulas, `ops/<operator>/cost.py`, loaded without their operators.

An operator's package imports PyTorch, its formulas do not: they are read as files, so that the arithmetic of this
package answers before PyTorch would have been loaded.
"""

from __future__ import annotations

from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

OPERATORS = Path(__file__).parents[1] / "ops"


@cache
def formulas_of(operator: str) -> ModuleType:
    """The formulas of an operator, by its folder's name. Those of recurrences have the same names and keywords."""
    spec = spec_from_file_location(f"hyla.cost.formulas.{operator}", OPERATORS / operator / "cost.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


attention = formulas_of("attention")
moe = formulas_of("moe")
short_conv = formulas_of("short_conv")
sparse = formulas_of("sparse")
weights = formulas_of("weights")
