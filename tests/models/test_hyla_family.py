"""Hyla's own format: any ModelConfig goes out and comes back whole, weights bit for bit."""

import copy
import json
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.checkpoints import load_model, save_model
from hyla.errors import ConfigError
from hyla.models import families
from hyla.models.config import (
    GatedDeltaConfig,
    LinearAttentionConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    ScaledResidual,
    SoftmaxConfig,
    SublayerConfig,
)
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights, cast
from hyla.models.trunk import Model

FAMILY = family_of("hyla")
IDS = list(range(40)) * 2


def same_weights(first: Model, second: Model) -> bool:
    a, b = NamedWeights(first), NamedWeights(second)
    return a.shapes == b.shapes and all(
        a.read(name).dtype == b.read(name).dtype and torch.equal(a.read(name), b.read(name)) for name in a.shapes
    )


@pytest.mark.parametrize("name", sorted(entry.name for entry in pkgutil.iter_modules(families.__path__)))
def test_a_model_of_any_family_goes_out_and_comes_back_bit_for_bit(tmp_path, name):
    config = family_of(name).tiny.model_copy(update={"family": "hyla"})
    assert FAMILY.config_from_hf(json.loads(json.dumps(FAMILY.config_to_hf(config)))) == config
    model = initialize(Model(config), 4, std=0.2)
    save_model(model, tmp_path / "m")
    back = load_model(tmp_path / "m")
    assert back.config == config and same_weights(back, model)
    with torch.inference_mode():
        assert torch.equal(back.logits([IDS])[0], model.logits([IDS])[0])


def test_packed_bf16_weights_come_back_with_their_dtypes(tmp_path):
    model = cast(initialize(Model(FAMILY.tiny), 4), torch.bfloat16)
    save_model(copy.deepcopy(model).pack(), tmp_path / "m")
    assert same_weights(load_model(tmp_path / "m"), model)


def test_a_pattern_that_no_published_format_has_is_built_and_kept(tmp_path):
    """Gated DeltaNet-H1 in its shape: gated delta and sliding-window layers in turn, here with a linear one between."""
    mixers = (
        GatedDeltaConfig(num_key_heads=2, num_value_heads=2, key_dim=10, value_dim=14),
        SoftmaxConfig(num_heads=4, num_kv_heads=1, head_dim=12, qk_norm=NormConfig(), output_gate=True, window=48),
        LinearAttentionConfig(num_heads=5, key_dim=6, value_dim=14, eps=1e-4),
    )
    norms = (NormConfig(eps=3e-6), NormConfig(zero_centered=True))
    sublayers = [SublayerConfig(norm=norm, module=mixer) for mixer in mixers for norm in norms]
    sublayers.append(SublayerConfig(module=MLPConfig(intermediate_dim=31), residual=ScaledResidual(alpha=1.3)))
    config = ModelConfig(
        family="hyla",
        vocab_size=61,
        hidden_dim=36,
        sublayers=tuple(sublayers),
        tie_embeddings=True,
        max_len=300,
        init_std=0.1 + 0.2,
    )
    model = initialize(Model(config), 1)
    save_model(model, tmp_path / "m")
    back = load_model(tmp_path / "m")
    assert back.config == config and same_weights(back, model)
    assert back.head.weight is back.embed.weight
    published = json.loads((tmp_path / "m" / "config.json").read_text())
    assert published["model_type"] == "hyla" and published["sublayers"][-1]["residual"]["alpha"] == 1.3


def test_every_field_has_its_place_in_config_json():
    published = FAMILY.config_to_hf(FAMILY.tiny)
    assert set(ModelConfig.model_fields) - {"family"} <= set(published)
    for written, sublayer in zip(published["sublayers"], FAMILY.tiny.sublayers):
        kind = type(sublayer.module)
        assert set(kind.model_fields) - kind.later == set(written["module"])


def test_a_field_that_came_later_is_written_where_it_is_used_and_may_be_given_where_not():
    softmax = {"kind": "softmax", "num_heads": 6, "num_kv_heads": 2, "head_dim": 12}
    keys = {**FAMILY.tiny_config, "sublayers": [{"module": softmax | {"qkv_bias": True, "out_bias": False}}]}
    config = FAMILY.config_from_hf(keys)
    module = config.sublayers[0].module
    assert (module.qkv_bias, module.out_bias) == (True, False)
    written = FAMILY.config_to_hf(config)["sublayers"][0]["module"]
    assert written["qkv_bias"] is True and "out_bias" not in written
    for value in (1, "false", None):
        keys["sublayers"] = [{"module": softmax | {"out_bias": value}}]
        with pytest.raises(ConfigError, match="out_bias"):
            FAMILY.config_from_hf(keys)


def with_module(**fields):
    keys = copy.deepcopy(dict(FAMILY.tiny_config))
    keys["sublayers"][0]["module"].update(fields)
    return keys


@pytest.mark.parametrize(
    "keys, message",
    [
        ({**FAMILY.tiny_config, "logit_softcap": 30.0}, r"unknown key logit_softcap = 30\.0"),
        (with_module(window=5), r"window"),
        (with_module(kind="rwkv"), r"kind|rwkv"),
        (with_module(key_dim="12"), r"sublayers = .* has a wrong type"),
        (with_module(key_dim=12.5), r"key_dim"),
        ({**FAMILY.tiny_config, "tie_embeddings": 1}, r"tie_embeddings = 1 .* has a wrong type; it reads True"),
        ({**FAMILY.tiny_config, "hidden_dim": -3}, r"hidden_dim = -3"),
        ({key: value for key, value in FAMILY.tiny_config.items() if key != "vocab_size"}, r"vocab_size"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(keys, message):
    with pytest.raises(ConfigError, match=message):
        FAMILY.config_from_hf(keys)


def test_another_family_s_config_is_saved_by_that_family():
    with pytest.raises(ConfigError, match="cannot describe this model"):
        FAMILY.config_to_hf(family_of("qwen3").tiny)


def places(value, path=()):
    """Every key and index of a nested JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def as_json(value):
    return json.loads(json.dumps(value))


@settings(max_examples=100)
@given(
    place=st.sampled_from(list(places(as_json(dict(FAMILY.tiny_config))))),
    value=st.sampled_from([None, "x", -1, 0, 1.5, [], {}, [1, 2], True, 10**30]),
    drop=st.booleans(),
)
def test_a_damaged_config_gives_an_error_or_a_model_never_a_crash(place, value, drop):
    keys = as_json(dict(FAMILY.tiny_config))
    parent = keys
    for key in place[:-1]:
        parent = parent[key]
    if drop:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    try:
        assert isinstance(FAMILY.config_from_hf(keys), ModelConfig)
    except ConfigError as error:
        assert "hyla" in str(error) or "Config" in str(error)
