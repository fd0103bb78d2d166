"""Keys of quantization_config: which have an effect, which have none, and errors for all others. Needs no PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from hyla.errors import ConfigError
from hyla.models.formats.published import Strict

logger = logging.getLogger("hyla.checkpoints")
Keys = TypeVar("Keys", bound=Strict)


def _is_group_size(value: int) -> int:
    if value == 0:
        raise ValueError("must be -1 (all inputs) or at least 1")
    return value


AUTO_ROUND = frozenset(
    {
        *(
            "autoround_version",
            "provider",
            "iters",
            "lr",
            "minmax_lr",
            "low_gpu_mem_usage",
            "low_cpu_mem_usage",
            "seqlen",
        ),
        *("nsamples", "enable_quanted_input", "enable_minmax_tuning", "enable_norm_bias_tuning", "amp", "batch_size"),
        *("gradient_accumulate_steps", "not_use_best_mse", "dynamic_max_gap", "to_quant_block_names", "scale_dtype"),
        *("quant_block_list", "super_bits", "super_group_size", "model_free", "extra_config"),
    }
)
"""How AutoRound chose the codes of GPTQ and AWQ folders that it wrote. Bits of single modules stand in the tensors."""

GroupSize = Annotated[int, Field(ge=-1, lt=2**31), AfterValidator(_is_group_size)]
"""Inputs that share a scale; -1: all of them."""


MOST_CHARS = 160


def shown(value: object) -> str:
    """A value for messages, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}..."


@dataclass(frozen=True)
class Declared:
    """What a folder says about its quantisation."""

    keys: Mapping
    where: str
    """The file that says it, for messages."""

    def read(
        self,
        schema: type[Keys],
        reads: str,
        *,
        inert: Collection[str] = (),
        other_names: Mapping[str, str] = MappingProxyType({}),
    ) -> Keys:
        """Check the keys of one format.

        reads: what Hyla reads of it, for messages. inert: keys that say nothing about how numbers are stored.
        other_names: another spelling -> ours. A key that is none of these is left out where its value asks for
        nothing (null, false, empty). Raises ConfigError, which names key, value and file.
        """
        kept = {}
        for key, value in self.keys.items():
            name = other_names.get(key, key)
            if value is None or key in inert:
                continue
            if name in schema.model_fields:
                if kept.setdefault(name, value) != value:
                    both = f"{shown(kept[name])} and {shown(value)}"
                    raise ConfigError(f"quantization_config: {name} is {both} in {self.where}; keep one")
            elif value is False or value in ({}, [], ""):
                logger.info(
                    "%s: left out %s = %r of quantization_config, which asks for nothing", self.where, key, value
                )
            else:
                raise ConfigError(
                    f"quantization_config: {key} = {shown(value)} in {self.where} is a key that Hyla does not know; "
                    "remove it if it does not change how weights are stored, else fetch the unquantised checkpoint"
                )
        try:
            return schema.model_validate(kept)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            said = "is missing" if first["type"] == "missing" else f"= {shown(first['input'])}"
            raise ConfigError(
                f"quantization_config: {key} {said} in {self.where}: {first['msg']}; Hyla reads {reads}, or fetch the "
                "unquantised checkpoint"
            ) from error
