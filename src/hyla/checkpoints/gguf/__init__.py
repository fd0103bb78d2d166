"""GGUF files as checkpoints: config, tensors and tokenizer of a published model, from one file or its parts."""

from hyla.lazy import exports

_HOMES = {
    "GGUFCheckpoint": "hyla.checkpoints.gguf.checkpoint",
    "GGUFReader": "hyla.checkpoints.gguf.reader",
    "open_file": "hyla.checkpoints.gguf.file",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
