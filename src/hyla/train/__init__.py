"""Training: packed documents, AdamW and Muon, warm-up and decay, metrics, checkpoints, exact resume."""

from hyla.train.config import TrainConfig

__all__ = ["TrainConfig"]
