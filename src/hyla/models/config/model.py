"""A model as data: the embedding, a tuple of sublayers, the head.

The configs of the modules stand in `base`, `mixers` and `channel_mixers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field, model_validator

# The module classes are not named here: every class below MixerConfig or ChannelMixerConfig is one.
import hyla.models.config.channel_mixers
import hyla.models.config.mixers  # noqa: F401
from hyla.models.config.base import ChannelMixerConfig, Config, Count, MixerConfig, ModuleConfig, NormConfig


def _classes(base: type[ModuleConfig]) -> Iterator[type[ModuleConfig]]:
    """The classes below one, in the order in which they are defined."""
    for each in base.__subclasses__():
        yield each
        yield from _classes(each)


MIXERS = tuple(_classes(MixerConfig))
CHANNEL_MIXERS = tuple(_classes(ChannelMixerConfig))
MIXER_KINDS = frozenset(each.model_fields["kind"].default for each in MIXERS)

if TYPE_CHECKING:
    AnyModule = ModuleConfig
else:
    AnyModule = Union[(*MIXERS, *CHANNEL_MIXERS)]


class ScaledResidual(Config):
    """alpha * norm(x) + beta * module(norm(x)): the residual is the normed stream, scaled (MiniMax-Text-01)."""

    alpha: float
    beta: float = 1.0


class SublayerConfig(Config):
    """One step of the residual stream: x + module(norm(x)), unless `residual` says otherwise."""

    norm: NormConfig = NormConfig()
    module: Annotated[AnyModule, Field(discriminator="kind")]
    residual: ScaledResidual | None = None
    """What joins the module to the stream (`models.residual`); None: x + module(norm(x)). The one place for other
    joins: norms behind the module, a multiplier, several streams, earlier blocks."""

    @property
    def is_mixer(self) -> bool:
        """Whether the module moves information along the sequence, and so keeps a cache."""
        return isinstance(self.module, MixerConfig)


class MTPConfig(Config):
    """One multi-token prediction module: sublayers(W [norm(embedding), norm(hidden)]), then a norm."""

    reads: Literal["normed", "raw"] = "normed"
    """The trunk's hidden state after its final norm or before it (MiMo-V2)."""
    hands_on: Literal["normed", "raw", "read"] = "normed"
    """What the next step reads: the output after its final norm, before it, or what this one read (MiMo-V2)."""

    norm: NormConfig = NormConfig()
    """Norm of the next token's embedding and of the hidden state, each with its own weight."""
    sublayers: tuple[SublayerConfig, ...]
    final_norm: NormConfig = NormConfig()
    num_steps: Count = 1
    """How many steps ahead the same weights were trained for (Nemotron-3: 2, with shared weights)."""
    has_own_embedding: bool = False
    """The checkpoint stores an embedding for the module (DeepSeek); otherwise it is the trunk's."""
    has_own_head: bool = False
    """The checkpoint stores a head for the module (DeepSeek); otherwise it is the trunk's."""


class ModelConfig(Config):
    """The whole model. `family` names the published format that it is saved in."""

    family: str
    vocab_size: Count
    hidden_dim: Count
    sublayers: tuple[SublayerConfig, ...]
    final_norm: NormConfig = NormConfig()
    tie_embeddings: bool = False
    mtp: tuple[MTPConfig, ...] = ()
    """Multi-token prediction modules in the order in which they are applied."""
    max_len: Count
    """Longest context in tokens that the model is declared for."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    init_std: float = Field(default=0.02, gt=0)

    @model_validator(mode="after")
    def _one_hidden_state(self):
        if len({module.reads for module in self.mtp}) > 1:
            raise ValueError("the modules of mtp must agree in what they read of the trunk")
        return self

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """The mixers of the stack, in order."""
        return tuple(sub.module for sub in self.sublayers if isinstance(sub.module, MixerConfig))
