"""The parameters of the dense channel mixer (`layers.mlp`)."""

from __future__ import annotations

from hyla.layers.parameters import Axis, Table, bias, hidden, matrix


def parameters(hidden_dim: int, *, intermediate_dim: int, has_gate: bool, has_bias: bool = False) -> Table:
    """has_gate: SwiGLU has one, relu2 has none. has_bias: of every projection."""
    stream, inner = hidden(hidden_dim), (Axis("intermediate", intermediate_dim, "tensor"),)
    names = ("gate", "up") if has_gate else ("up",)
    matrices = (
        *(matrix(f"{name}.weight", inner, stream, product="gate_up") for name in names),
        matrix("down.weight", stream, inner, product="down"),
    )
    biases = (*(bias(name, *inner) for name in names), bias("down", *stream))
    return (*matrices, *biases) if has_bias else matrices
