"""FP8 checkpoints: what `quantization_config` may say, and tensors with their scales in and out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, ValidationError

from hyla.errors import CheckpointError, ConfigError
from hyla.models.formats.names import Rule
from hyla.models.formats.published import Strict
from hyla.models.trunk import Model
from hyla.models.weights import Weights
from hyla.ops.quant import BLOCK, FP8, FP8Tensor, dequantise, quantise, quantise_with

logger = logging.getLogger("hyla.checkpoints")

SUFFIX = "_scale_inv"
"""Of the name of a tensor's scales."""
CODE_DTYPE = "F8_E4M3"
SCALE_DTYPES = ("F32", "BF16", "F8_E8M0")

Side = Annotated[int, Field(ge=BLOCK, le=BLOCK)]


class FP8Keys(Strict):
    """HANDLED keys of quantization_config. Which tensors are FP8 the files say; the lists are kept as they are."""

    quant_method: Literal["fp8"]
    weight_block_size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    fmt: Literal["e4m3", "float8_e4m3fn"] = "e4m3"
    activation_scheme: Literal["dynamic"] = "dynamic"
    """How other engines round activations; here they are not quantised."""
    scale_fmt: Literal["ue8m0", "float32", "float"] | None = None
    modules_to_not_convert: list[str] | None = None
    ignored_layers: list[str] | None = None
    packed_modules_mapping: dict | None = None
    dequantize: Literal[False] = False


def read_quantization(published: Mapping, text_key: str | None) -> dict | None:
    """The `quantization_config` of a config.json, checked. Raises ConfigError for a format that cannot be read."""
    nested = published.get(text_key) if text_key else None
    found = published.get("quantization_config")
    if found is None and isinstance(nested, Mapping):
        found = nested.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise ConfigError(f"quantization_config = {found!r} in config.json must be an object")
    try:
        FP8Keys.model_validate(dict(found))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"quantization_config: {key} = {first['input']!r} in config.json: {first['msg']}; Hyla reads FP8 weights "
            "in blocks of 128 x 128, or fetch the unquantised checkpoint"
        ) from error
    logger.info("FP8 weights stay FP8; activations are not quantised, whatever activation_scheme says")
    return dict(found)


def place_rule(
    rule: Rule,
    read: Callable[[str], torch.Tensor],
    model: Model,
    weights: Weights,
    *,
    keep: torch.dtype | None,
    device: str,
) -> list[torch.Tensor] | None:
    """Put a rule's FP8 tensors into the model as they are; returns None then, else ours, dequantised.

    read: a published tensor by name. keep: the dtype that resident weights stand for; None: dequantise, to fp32.
    """
    codes = [read(name) for name in rule.published]
    scales = [read(name + SUFFIX) for name in rule.published]
    for name, scale in zip(rule.published, scales):
        check_scales(name + SUFFIX, scale)
    shapes = [weights.shapes[name] for name in rule.ours]
    same = len({scale.dtype for scale in scales}) == 1
    if keep is not None and same and rule.keeps_blocks(shapes) and all(map(weights.may_be_quantised, rule.ours)):
        ours = rule.to_ours([part.view(torch.uint8) for part in codes], shapes)
        kept = rule.scales_to_ours(_as_bytes(scales), shapes)
        for name, part, scale, shard in zip(rule.ours, ours, kept, rule.shards(shapes)):
            own = _own(part, codes, device).view(FP8), _own(scale, scales, device).view(scales[0].dtype)
            stored = FP8Tensor(*own, keep, shard)
            weights.assign_quantised(name, stored)
        return None
    if keep is not None:
        logger.info("%s is dequantised: its rows are split inside blocks of %d", rule.published[0], BLOCK)
        for name, scale in zip(rule.published, scales):
            model.published_scales[name] = scale.clone()
    dtype = keep or torch.float32
    plain = [
        dequantise(part, scale, dtype, rule.published_shard(tuple(part.shape))) for part, scale in zip(codes, scales)
    ]
    return rule.to_ours(plain, shapes)


def check_scales(name: str, scale: torch.Tensor) -> None:
    """Raise CheckpointError unless every scale is a finite number of at least zero."""
    wide = scale.to(torch.float32)
    if not bool(((wide >= 0) & torch.isfinite(wide)).all()):
        raise CheckpointError(f"{name} holds scales that are negative or not finite; fetch it again")


def _as_bytes(scales: list[torch.Tensor]) -> list[torch.Tensor]:
    """Few operations know 8-bit floats: the rules move them as bytes."""
    return [scale.view(torch.uint8) if scale.element_size() == 1 else scale for scale in scales]


def _own(tensor: torch.Tensor, mapped: list[torch.Tensor], device: str) -> torch.Tensor:
    """A copy of what still is a mapped file's: the file may be replaced or deleted while the model lives."""
    places = {part.untyped_storage().data_ptr() for part in mapped}
    return tensor.to(device=device, copy=tensor.untyped_storage().data_ptr() in places).contiguous()


def saved_rule(rule: Rule, model: Model, weights: Weights) -> Iterator[tuple[str, torch.Tensor]] | None:
    """The published codes and scales of a rule whose weights are FP8 (or were, before they were dequantised)."""
    stored = [weights.quantised(name) for name in rule.ours]
    if all(part is not None for part in stored):
        codes = rule.to_published([part.codes.view(torch.uint8) for part in stored])
        scales = _as_bytes([part.scale for part in stored])
        scales = rule.scales_to_published(scales, [part.shape for part in stored])
        kind = stored[0].scale.dtype
        return _pairs(rule, [part.view(FP8) for part in codes], [scale.contiguous().view(kind) for scale in scales])
    if model.quantization is not None and all(name in model.published_scales for name in rule.published):
        plain = rule.to_published([weights.read(name) for name in rule.ours])
        return _pairs(rule, *zip(*(_again(part, model.published_scales[n]) for n, part in zip(rule.published, plain))))
    return None


def _again(weight: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes for the published scales; with new scales for a weight that has changed since."""
    codes = quantise_with(weight, scale)
    return (codes, scale) if torch.equal(dequantise(codes, scale, weight.dtype), weight) else quantise(weight)


def _pairs(rule: Rule, codes, scales) -> Iterator[tuple[str, torch.Tensor]]:
    for name, part, scale in zip(rule.published, codes, scales):
        yield name, part.contiguous()
        yield name + SUFFIX, scale.contiguous()
