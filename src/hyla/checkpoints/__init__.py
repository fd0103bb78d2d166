"""Hugging Face folders in and out, GGUF files in: config, safetensors shards, tokenizer, chat template."""

from hyla.lazy import exports

_HOMES = {
    "Checkpoint": "hyla.checkpoints.protocol",
    "CheckpointConfig": "hyla.checkpoints.protocol",
    "Tokenizer": "hyla.checkpoints.tokenizer",
    "WeightUpdate": "hyla.checkpoints.replace",
    "load_model": "hyla.checkpoints.load",
    "load_tokenizer": "hyla.checkpoints.opening",
    "open_checkpoint": "hyla.checkpoints.opening",
    "read_config": "hyla.checkpoints.opening",
    "release_weights": "hyla.checkpoints.replace",
    "resolve": "hyla.checkpoints.hub",
    "save_model": "hyla.checkpoints.save",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
