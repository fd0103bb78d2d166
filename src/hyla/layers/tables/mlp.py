"""The parameters of the dense channel mixer (`layers.mlp`)."""

from __future__ import annotations

from hyla.layers.parameters import Axis, Table, hidden, matrix


def parameters(hidden_dim: int, *, intermediate_dim: int, has_gate: bool) -> Table:
    """has_gate: SwiGLU has one, relu2 has none."""
    stream, inner = hidden(hidden_dim), (Axis("intermediate", intermediate_dim, "tensor"),)
    names = ("gate", "up") if has_gate else ("up",)
    return (
        *(matrix(f"{name}.weight", inner, stream, product="gate_up") for name in names),
        matrix("down.weight", stream, inner, product="down"),
    )
