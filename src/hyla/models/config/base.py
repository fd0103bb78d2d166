"""What the configs of all modules share: their base, norms, position codes.

Every config is frozen and forbids unknown keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from hyla.errors import ConfigError

Count = Annotated[int, Field(ge=1, lt=2**31)]


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys are errors, and errors are `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            # What is wrong with all of it together says its message.
            given = f"{where} = {first.get('input')!r}: " if where else ""
            raise ConfigError(f"{type(self).__name__}: {given}{first['msg'].removeprefix('Value error, ')}") from error


class DerivingConfig(Config):
    """A config with `cached_property`s: a changed copy derives them anew."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed, validated."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | dict(update or {}))


class ModuleConfig(Config):
    """What stands in a sublayer. `kind` says which module it is; `hyla.models.kinds` has one entry for each."""

    kind: str
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after models with this module were saved. While they have their defaults they are not written,
    so that nothing changes for models that do not use them: folders, runs, fingerprints of caches. A class that has
    some is a `LaterFields` too."""

    def unused_later(self) -> set[str]:
        """Those of `later` that have their defaults."""
        fields = type(self).model_fields
        return {name for name in self.later if getattr(self, name) == fields[name].default}


class LaterFields(ModuleConfig):
    """Leaves out `later` fields at their defaults. Not every module's base: pydantic writes an infinity as null in
    what passes through a function."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = self.unused_later()
        return {name: value for name, value in write(self).items() if name not in unused}


class MixerConfig(ModuleConfig):
    """A module that moves information along the sequence, and keeps something of it."""


class ChannelMixerConfig(ModuleConfig):
    """A module that treats every row alone."""


class NormConfig(Config):
    eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square. Published models use 1e-5 or 1e-6."""
    zero_centered: bool = False
    """The stored weight is the scale minus one (Qwen3-Next, Qwen3.5)."""


class LinearScalingConfig(Config):
    """Positions divided by `factor` (arXiv 2306.15595)."""

    kind: Literal["linear"] = "linear"
    factor: Annotated[float, Field(ge=1)]
    """Wanted length over the original one."""


class Llama3ScalingConfig(Config):
    """Long waves divided by `factor`, short ones kept, a blend between (Llama 3.1)."""

    kind: Literal["llama3"] = "llama3"
    factor: Annotated[float, Field(ge=1)]
    """Divides the frequencies of waves longer than original_max_len / low_freq_factor."""
    low_freq_factor: Annotated[float, Field(gt=0)]
    high_freq_factor: Annotated[float, Field(gt=0)]
    """Waves shorter than original_max_len / high_freq_factor are kept."""
    original_max_len: Count
    """Tokens of the context that the model was first trained with."""

    @model_validator(mode="after")
    def _order(self):
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be less than high_freq_factor")
        return self


class YarnScalingConfig(Config):
    """Channels that turn often are kept, those that turn seldom interpolated (YaRN, arXiv 2309.00071)."""

    kind: Literal["yarn"] = "yarn"
    factor: Annotated[float, Field(ge=1)]
    """Wanted length over the original one."""
    original_max_len: Count
    """Tokens of the context that the model was first trained with."""
    beta_fast: Annotated[float, Field(gt=0)] = 32.0
    """Channels that turn more often than this within the original length keep their frequency."""
    beta_slow: Annotated[float, Field(gt=0)] = 1.0
    """Channels that turn less often are wholly interpolated."""
    truncate: bool = True
    """Round the ends of the ramp between the two to whole channels, outwards (gpt-oss does not)."""
    attention_factor: Annotated[float, Field(gt=0)] | None = None
    """On cosines and sines; None: from `factor`, `mscale` and `mscale_all_dim`."""
    mscale: Annotated[float, Field(ge=0)] | None = None
    """Weight of ln(factor) in the attention factor's numerator; read only where mscale_all_dim is set too."""
    mscale_all_dim: Annotated[float, Field(ge=0)] | None = None
    """The same for its denominator; DeepSeek moves this part into the softmax scale (`MLAConfig.scale_factor`)."""


class FactorsScalingConfig(Config):
    """Each frequency divided by a number of its own, as some files give a scaling's result instead of its formula."""

    kind: Literal["factors"] = "factors"
    factors: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
    """Divisors of theta^(-2i / rotary_dim), i < rotary_dim / 2."""


ScalingConfig = Annotated[
    LinearScalingConfig | Llama3ScalingConfig | YarnScalingConfig | FactorsScalingConfig, Field(discriminator="kind")
]


class RopeConfig(Config):
    rotary_dim: Count
    """Leading channels of a head that are rotated; the rest carry no position."""
    theta: float = Field(default=10000.0, gt=0)
    interleaved: bool = False
    """Rotate neighbouring channels (2i, 2i + 1) together (GPT-J, DeepSeek) instead of i with i + rotary_dim / 2."""
    scaling: ScalingConfig | None = None
    """How the frequencies are changed for contexts longer than the original training's."""

    @model_validator(mode="after")
    def _even(self):
        if self.rotary_dim % 2:
            raise ValueError("rotary_dim must be even")
        if isinstance(self.scaling, YarnScalingConfig) and self.theta <= 1:
            raise ValueError(f"theta {self.theta} must be above 1 for yarn, which divides by its logarithm")
        if isinstance(self.scaling, FactorsScalingConfig) and 2 * len(self.scaling.factors) != self.rotary_dim:
            raise ValueError(f"{len(self.scaling.factors)} factors for {self.rotary_dim} rotated channels; give half")
        return self
