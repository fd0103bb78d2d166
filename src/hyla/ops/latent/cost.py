"""What absorbing queries and reading heads out of the latent costs."""

from __future__ import annotations


def flops_per_token(*, num_heads: int, latent_dim: int, nope_dim: int, value_dim: int) -> int:
    """Two for each multiply-add of both matrices of each head."""
    return 2 * num_heads * latent_dim * (nope_dim + value_dim)
