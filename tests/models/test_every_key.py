"""A value that config.json gives is never lost: changed, each gives another model, or is refused by name."""

import typing

import pytest
import torch
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from hyla.errors import ConfigError
from hyla.models.formats.family import Family
from hyla.models.formats.published import ROPE_KEYS, RopeParameters
from hyla.models.formats.registry import families, family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

FAMILIES = tuple(sorted(family.name for family in families() if family.name != "hyla"))  # its keys are our fields
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 0.7}
YARN |= {"mscale_all_dim": 0.9}
NUMBERS_OF_OTHERS = ("max_position_embeddings", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys that say something about the model and nothing about its numbers."""

INERT = {
    "mrope_section": "frequencies per image axis: the three positions of text are equal",
    "mrope_interleaved": "the same",
}
"""Keys of the position code without an effect on text."""
INERT_OF = {
    "qwen3_5_text": {"mlp_only_layers": "every layer is dense anyway"},
    "minimax_m2": {
        "use_mtp": "promises tensors that no checkpoint has (logged)",
        "num_mtp_modules": "the same",
    },
}
"""Handled keys of a family that change nothing, each with its reason."""


def spellings(field: str, info: FieldInfo) -> tuple[str, ...]:
    alias = info.validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (field,)


def others(value: object, info: FieldInfo) -> list[object]:
    """Values of the same type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value + 2, value // 2, 0]
    if isinstance(value, float):
        return [value * 2 + 0.5, value / 2]
    if isinstance(value, str):
        choices = [arg for part in typing.get_args(info.annotation) for arg in (*typing.get_args(part), part)]
        return [choice for choice in choices if isinstance(choice, str) and choice != value]
    if isinstance(value, list):
        return [value[::-1], [*value[:-1], value[0]], [*value[1:], value[-1]]] if value else [[1], [0]]
    return [value for kind in typing.get_args(info.annotation) for value in EXAMPLES.get(kind, ())]


FLAT_KIMI = {"linear_attn_config": None, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}
WINDOWED = {"sliding_window": 20, "max_window_layers": 1}
BESIDE = {
    ("qwen3_next", "intermediate_size"): {"mlp_only_layers": [0]},
    ("qwen2", "use_sliding_window"): WINDOWED,
    ("qwen2", "max_window_layers"): WINDOWED | {"use_sliding_window": True},
    ("qwen2", "sliding_window"): WINDOWED | {"use_sliding_window": True},
    **{("kimi_linear", f"linear_{key}"): FLAT_KIMI for key in ("num_heads", "head_dim", "conv_kernel_dim")},
}
"""What must stand beside a key for it to mean something."""
EXAMPLES = {int: (2, 3, 24), float: (0.5, 2.0), bool: (True,), list: ([1],)}
"""Where a key is not given."""


def read(family: Family, keys: dict):
    """The model's config, or None where it is refused."""
    try:
        return family.config_from_hf(keys)
    except ConfigError:
        return None


@pytest.mark.parametrize("name", FAMILIES)
def test_every_handled_key_gives_another_model_or_is_refused(name):
    family, lost = family_of(name), []
    inert = INERT | INERT_OF.get(name, {})
    schema = family.schema
    for field, info in schema.model_fields.items():
        if field == "rope_parameters":
            continue
        first, *_ = names = spellings(field, info)
        given = next((key for key in names if key in family.tiny_config), first)
        now = family.tiny_config.get(given, info.get_default(call_default_factory=True))
        keys = {**family.tiny_config, **BESIDE.get((name, given), {})}
        plain = read(family, keys)
        tried = [read(family, {**keys, given: value}) for value in others(now, info) if value != now]
        assert plain is not None
        is_seen = any(config is not None and config != plain for config in tried)
        is_refused = all(config is None for config in tried)
        if not (is_seen or is_refused) and not inert.keys() & set(names):
            lost.append(given)
    assert not lost


def logits(config) -> torch.Tensor:
    model = initialize(Model(config), 3, std=0.3).eval()
    with torch.inference_mode():
        return torch.cat(model.logits([list(range(1, 60))]))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_scaling_of_positions_reaches_every_rotation_and_the_logits(name):
    family = family_of(name)
    plain = {key: value for key, value in family.tiny_config.items() if key not in ("rope_parameters", "rope_scaling")}
    own = family.tiny_config.get("rope_parameters") or {}
    flat = {key: own[key] for key in ROPE_KEYS if key in own}
    scaled = read(family, {**plain, **flat, "rope_scaling": YARN})
    before = read(family, {**plain, **flat})
    if before is None or scaled is None or not any(getattr(mixer, "rope", None) for mixer in before.mixers):
        return  # refused by name, or no positions at all
    for mixer in scaled.mixers:
        rope = getattr(mixer, "rope", None)
        assert rope is None or (rope.scaling is not None and rope.scaling.factor == 4.0), mixer.kind
    assert family.config_from_hf(family.config_to_hf(scaled)) == scaled
    assert not torch.equal(logits(before), logits(scaled))


def test_every_key_of_the_position_code_is_tried_or_inert():
    tried = {*YARN, *ROPE_KEYS, *INERT}
    of_other_scalings = {"low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "truncate", "factors"}
    assert set(RopeParameters.model_fields) == tried | of_other_scalings | {"attention_factor"}
