"""GGUF files as checkpoints: config, tensors and tokenizer of a published model, from one file or its parts."""

from hyla.lazy import exports

_HOMES = {
    "GGUFCheckpoint": "hyla.checkpoints.gguf.checkpoint",
    "GGUFReader": "hyla.checkpoints.gguf.reader",
    "is_gguf": "hyla.checkpoints.gguf.checkpoint",
    "open_file": "hyla.checkpoints.gguf.parts",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
