"""Training steps beside transformers: the same weights, documents and optimizer, fp32 and bf16."""

from bench.training.command import add_options, run

__all__ = ["add_options", "run"]
