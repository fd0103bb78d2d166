"""Hugging Face folders in and out: config, safetensors shards, tokenizer, chat template."""

from hyla.checkpoints.hub import resolve
from hyla.checkpoints.load import FolderConfig, load_model, read_config
from hyla.checkpoints.replace import WeightUpdate, release_weights
from hyla.checkpoints.save import save_model
from hyla.checkpoints.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "FolderConfig",
    "Tokenizer",
    "WeightUpdate",
    "load_model",
    "load_tokenizer",
    "read_config",
    "release_weights",
    "resolve",
    "save_model",
]
