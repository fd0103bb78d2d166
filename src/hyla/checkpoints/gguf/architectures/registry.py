"""Which architectures are read, and a GGUF model through its own: config.json and published tensors."""

from __future__ import annotations

from dataclasses import dataclass

from hyla.checkpoints.gguf.architectures import common, dense, latent, minimax, nemotron, qwen, windowed
from hyla.checkpoints.gguf.architectures.architecture import Architecture, Source
from hyla.checkpoints.gguf.metadata import Metadata
from hyla.checkpoints.gguf.names import Published
from hyla.checkpoints.gguf.parts import GGUFModel
from hyla.errors import CheckpointError

MODULES = (dense, qwen, latent, minimax, nemotron, windowed)
ARCHITECTURES: dict[str, Architecture] = {entry.name: entry for module in MODULES for entry in module.ARCHITECTURES}

NEVER_WRITTEN = "Ling-2.5 (bailing_hybrid), Ring-linear-2.0 and Hyla's own format have no GGUF form: give their folders"
IGNORED = {
    "pooling_type": "how embeddings of a text are made by another program",
    "rope.scaling.original_context_length": "read with the scalings that use it",
    "rope.scaling.finetuned": "whether the writer trained with the scaling",
    "tensor_data_layout": "an old remark on the rows of q and k",
}
"""Keys below the architecture's name that have no effect, each with its reason."""


@dataclass(frozen=True)
class Translation:
    """A GGUF model in published terms."""

    keys: dict
    """config.json, without the ids of tokens."""
    tensors: dict[str, Published]


def architecture_of(model: GGUFModel) -> Architecture:
    """By general.architecture. Raises CheckpointError that lists what is read."""
    name = Metadata(model.path, model.metadata).text("general.architecture")
    found = ARCHITECTURES.get(name)
    if found is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise CheckpointError(
            f"{model.path}: general.architecture = {name!r} is not one that Hyla reads ({known}); {NEVER_WRITTEN}"
        )
    return found


def translate(model: GGUFModel) -> Translation:
    """config.json and tensors. Raises CheckpointError for a key or tensor that nobody reads."""
    architecture = architecture_of(model)
    keys = Metadata(model.path, model.metadata, f"{architecture.name}.")
    source = Source(model.path, keys, model.tensors)
    if not model.tensors:
        raise CheckpointError(f"{model.path} holds no tensors, only a vocabulary; give the file of the model")
    common.must_be(source, keys.flag("attention.causal", True), True, "attention.causal")
    published = architecture.config(source)
    keys.pass_over(*IGNORED, *architecture.ignored)
    if keys.unread:
        raise CheckpointError(
            f"{model.path}: {len(keys.unread)} keys are unknown: {', '.join(keys.unread[:4])}; this version of Hyla "
            "cannot tell what they change"
        )
    return Translation(published, architecture.names(source, published).publish(model.path, model.tensors))
