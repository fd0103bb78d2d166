"""The parameters of the mixture of experts (`layers.moe`)."""

from __future__ import annotations

from hyla.layers.parameters import ZEROS, Axis, Dim, Parameter, Table, hidden, matrix, vector, within
from hyla.layers.tables import mlp


def _experts(name: str, count: int, out: Dim, into: Dim, product: str) -> Parameter:
    """A row for the matrices of all experts, stacked."""
    dims = ((Axis("expert", count, "expert"),), out, into)
    return Parameter(name, dims, is_decayed=True, muon="expert", is_quantisable=True, product=product)


def parameters(
    hidden_dim: int,
    *,
    num_experts: int,
    expert_dim: int,
    has_gate: bool,
    has_bias: bool = False,
    shared_dim: int = 0,
    has_shared_gate: bool = False,
    latent_dim: int = 0,
) -> Table:
    """has_gate: of experts and shared expert (SwiGLU); has_bias: a bias per expert in the selection; shared_dim: 0 for
    no shared expert; latent_dim: width of the routed experts' rows, 0 for hidden_dim itself."""
    stream, inner = hidden(hidden_dim), (Axis("intermediate", expert_dim),)
    latent = (Axis("latent", latent_dim),)
    seen = latent if latent_dim else stream
    # Every rank routes all rows: the router's experts are not divided.
    scored = Axis("expert", num_experts)
    rows = [Parameter("router", ((scored,), stream), is_fp32=True, is_decayed=True, product="router")]
    names = ("gate", "up") if has_gate else ("up",)
    rows += [_experts(f"experts_{name}", num_experts, inner, seen, "experts_in") for name in names]
    rows.append(_experts("experts_down", num_experts, seen, inner, "experts_out"))
    if has_bias:
        rows.append(vector("router_bias", scored, start=ZEROS, is_fp32=True))
    if latent_dim:
        # Its outputs are divided: the latent is whole on every rank.
        divided = (Axis("hidden", hidden_dim, "tensor"),)
        rows.append(matrix("to_latent.weight", latent, stream, product="to_latent"))
        rows.append(matrix("from_latent.weight", divided, latent, product="from_latent"))
    if shared_dim:
        rows += within("shared.", mlp.parameters(hidden_dim, intermediate_dim=shared_dim, has_gate=has_gate))
    if shared_dim and has_shared_gate:
        rows.append(matrix("shared_gate.weight", (Axis("gate", 1),), stream, product="shared_gate"))
    return tuple(rows)
