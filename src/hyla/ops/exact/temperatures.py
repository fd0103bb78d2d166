"""Which temperatures logits are divided by. Without PyTorch: parameters of requests are checked against it."""

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6
"""Between them no quotient of logits overflows in fp32, and none is lost."""
