"""The names that `python -m bench` knows."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = (
    "acceptance",
    "arithmetics",
    "attention_gradient",
    "bf16_curve",
    "attention_kernel",
    "beside_llama",
    "cost_claims",
    "cost_prediction",
    "decay_gradients",
    "decode_gate",
    "decode_step",
    "delta_gradients",
    "engine",
    "fp8_product",
    "gguf_families",
    "handover",
    "http_overhead",
    "invariance",
    "numerics",
    "peers",
    "neighbours",
    "products",
    "qwen35_shape",
    "real_model",
    "rl",
    "rollouts",
    "sampling",
    "snapshots",
    "spill",
    "start",
    "state_rounding",
    "study_overhead",
    "study_statistics",
    "training",
    "vectors",
)
SHARED = (
    "decode_worker",
    "gguf_converter",
    "gguf_folder",
    "hyla_names",
    "machine",
    "outcome",
    "qwen35_folder",
    "registry",
    "revisions",
    "timing",
    "turns",
)
"""What they are made of."""


def first_line(name: str) -> str:
    """What a benchmark measures, read without importing it."""
    file = HERE / f"{name}.py" if (HERE / f"{name}.py").exists() else HERE / name / "__init__.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def listing() -> str:
    width = max(map(len, BENCHMARKS))
    return "\n".join(f"{name:{width}}  {first_line(name)}" for name in BENCHMARKS)
