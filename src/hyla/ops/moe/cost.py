"""What a mixture of experts costs."""

from __future__ import annotations


def flops_per_token(
    hidden_dim: int, num_experts: int, num_experts_per_token: int, expert_dim: int, *, num_matrices: int = 3
) -> int:
    """Two per multiply-add: the router's D E, and three products of D I (relu2: two) for each chosen expert."""
    router = 2 * hidden_dim * num_experts
    return router + expert_flops_per_token(hidden_dim, num_experts_per_token, expert_dim, num_matrices=num_matrices)


def expert_flops_per_token(
    hidden_dim: int, num_experts_per_token: int, expert_dim: int, *, num_matrices: int = 3
) -> int:
    """The products of the chosen experts alone; hidden_dim: width of the rows that the experts see."""
    return num_experts_per_token * 2 * num_matrices * hidden_dim * expert_dim


def expert_bytes(hidden_dim: int, expert_dim: int, bytes_per_element: int, *, num_matrices: int = 3) -> int:
    """Weights of one expert: gate, up and down (relu2: up and down)."""
    return num_matrices * hidden_dim * expert_dim * bytes_per_element


def expected_experts_read(num_tokens: int, num_experts: int, num_experts_per_token: int) -> float:
    """Experts that a step of `num_tokens` tokens touches, if choices were even: E (1 - (1 - k/E)^T)."""
    return num_experts * (1.0 - (1.0 - num_experts_per_token / num_experts) ** num_tokens)
