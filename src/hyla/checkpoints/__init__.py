"""Hugging Face folders in and out: config, safetensors shards, tokenizer, chat template."""

from hyla.lazy import exports

_HOMES = {
    "FolderConfig": "hyla.checkpoints.folder_config",
    "Tokenizer": "hyla.checkpoints.tokenizer",
    "WeightUpdate": "hyla.checkpoints.replace",
    "load_model": "hyla.checkpoints.load",
    "load_tokenizer": "hyla.checkpoints.tokenizer",
    "read_config": "hyla.checkpoints.folder_config",
    "release_weights": "hyla.checkpoints.replace",
    "resolve": "hyla.checkpoints.hub",
    "save_model": "hyla.checkpoints.save",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
