"""Adapters: low-rank terms beside frozen weights (LoRA, DoRA), in PEFT's files; new tokens for a model."""

from hyla.lazy import exports

_HOMES = {
    "AdapterFile": "hyla.adapters.read",
    "Adapters": "hyla.adapters.attached",
    "Coverage": "hyla.adapters.coverage",
    "LoraConfig": "hyla.adapters.config",
    "attach": "hyla.adapters.attached",
    "coverage": "hyla.adapters.coverage",
    "extend_vocabulary": "hyla.adapters.vocabulary",
    "load_adapted": "hyla.adapters.merging",
    "load_adapter": "hyla.adapters.attached",
    "merge": "hyla.adapters.merging",
    "read_adapter": "hyla.adapters.read",
    "report": "hyla.adapters.coverage",
    "save_adapter": "hyla.adapters.save",
    "tokenizer_beside": "hyla.adapters.tokenizer",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = exports(__name__, _HOMES)
