"""FP8 tensors with their scales through the name rules, in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from hyla.errors import CheckpointError
from hyla.models.formats.family import published_shapes
from hyla.models.formats.names import Rule
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.ops.weights import FP8, FP8Tensor, dequantise, quantise, quantise_with

SUFFIX = "_scale_inv"
"""What the name of a tensor's scales ends with."""
CODE_DTYPE = "F8_E4M3"
SCALE_DTYPES = ("F32", "BF16", "F8_E8M0")


def resident(
    rule: Rule,
    codes: list[torch.Tensor],
    scales: list[torch.Tensor],
    shapes: Sequence[tuple[int, ...]],
    *,
    dtype: torch.dtype,
    device: torch.device | str,
) -> list[FP8Tensor] | None:
    """Published FP8 tensors as ours, of the given shapes; None where the rule does not keep their blocks.

    dtype: what they stand for.
    """
    layouts = rule.layouts(shapes)
    if layouts is None or len({scale.dtype for scale in scales}) > 1:
        return None
    ours = rule.to_ours([part.view(torch.uint8) for part in codes], shapes)
    kept = rule.scales_to_ours(_as_bytes(scales), shapes)
    found = []
    for part, scale, layout in zip(ours, kept, layouts):
        numbers = _unmapped(part, codes, device).view(FP8), _unmapped(scale, scales, device).view(scales[0].dtype)
        found.append(FP8Tensor(*numbers, dtype, layout.shard))
    return found


def check_scales(name: str, scale: torch.Tensor) -> None:
    """Raise CheckpointError unless every scale is a finite number of at least zero."""
    wide = scale.to(torch.float32)
    if not bool(((wide >= 0) & torch.isfinite(wide)).all()):
        raise CheckpointError(f"{name} holds scales that are negative or not finite; fetch it again")


def _as_bytes(scales: list[torch.Tensor]) -> list[torch.Tensor]:
    """Few operations know 8-bit floats: the rules move them as bytes."""
    return [scale.view(torch.uint8) if scale.element_size() == 1 else scale for scale in scales]


def _unmapped(tensor: torch.Tensor, mapped: list[torch.Tensor], device: torch.device | str) -> torch.Tensor:
    """A copy of what still is a mapped file's: the file may be replaced or deleted while the model lives."""
    places = {part.untyped_storage().data_ptr() for part in mapped}
    return tensor.to(device=device, copy=tensor.untyped_storage().data_ptr() in places).contiguous()


def saved_rule(rule: Rule, model: Model, weights: NamedWeights) -> Iterator[tuple[str, torch.Tensor]] | None:
    """The published codes and scales of a rule whose weights are FP8 (or were, before they were dequantised)."""
    stored = [part for name in rule.ours if (part := weights.fp8(name)) is not None]
    if len(stored) == len(rule.ours):
        codes = rule.to_published([part.codes.view(torch.uint8) for part in stored])
        scales = _as_bytes([part.scale for part in stored])
        scales = rule.scales_to_published(scales, [part.shape for part in stored])
        kind = stored[0].scale.dtype
        return _pairs(rule, [part.view(FP8) for part in codes], [scale.contiguous().view(kind) for scale in scales])
    if model.quantization is not None and all(name in model.published_scales for name in rule.published):
        plain = rule.to_published([weights.read(name) for name in rule.ours])
        return _pairs(rule, *zip(*(_again(part, model.published_scales[n]) for n, part in zip(rule.published, plain))))
    return None


def fp8_rules_kept(rules: Iterable[Rule], *, model: Model, weights: NamedWeights) -> int:
    """How many of some rules can be published with the FP8 codes and scales that their weights have (or had): matrices
    by their blocks."""
    if model.quantization is None:
        return 0
    return sum(_keeps_fp8(rule, model, weights) for rule in rules if weights.shapes.keys() >= set(rule.ours))


def _keeps_fp8(rule: Rule, model: Model, weights: NamedWeights) -> bool:
    if all(name in model.published_scales for name in rule.published):
        return True
    shapes = [weights.shapes[name] for name in rule.ours]
    has_codes = all(weights.fp8(name) is not None for name in rule.ours)
    return has_codes and rule.layouts(shapes) is not None and all(len(s) == 2 for s in published_shapes(rule, shapes))


def _again(weight: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes for the published scales; with new scales for a weight that has changed since."""
    codes = quantise_with(weight, scale)
    return (codes, scale) if torch.equal(dequantise(codes, scale, weight.dtype), weight) else quantise(weight)


def _pairs(rule: Rule, codes, scales) -> Iterator[tuple[str, torch.Tensor]]:
    for name, part, scale in zip(rule.published, codes, scales):
        yield name, part.contiguous()
        yield name + SUFFIX, scale.contiguous()
