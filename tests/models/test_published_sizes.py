"""Published sizes: built on the meta device, their parameter counts are the published ones."""

import pytest
import torch

from hyla.models.family import family_of
from hyla.models.trunk import Model
from hyla.models.weights import Weights

# Billions of parameters without multi-token prediction, computed from the published shapes.
TOTALS = [
    ("qwen3_next", "Qwen3-Next-80B-A3B", 79.67),
    ("qwen3_5", "Qwen3.5-4B", 4.21),
    ("qwen3_5", "Qwen3.5-9B", 8.95),
    ("qwen3_5", "Qwen3.5-27B", 26.90),
    ("kimi_linear", "Kimi-Linear-48B-A3B", 49.12),
    ("mimo_v2_flash", "MiMo-V2-Flash", 308.78),
    ("mimo_v2", "MiMo-V2.5-Pro", 1021.3),
    ("minimax_m2", "MiniMax-M2", 228.69),
    ("minimax_m2", "MiniMax-M2.7", 228.70),
    ("qwen3_moe", "Qwen3-30B-A3B", 30.53),
    ("qwen3_moe", "Qwen3-235B-A22B", 235.09),
    ("qwen3", "Qwen3-0.6B", 0.596),
    ("qwen3", "Qwen3-8B", 8.19),
    ("qwen3", "Qwen3-32B", 32.76),
]


# Billions of parameters that work on one token, embedding and head included.
ACTIVE = [
    ("mimo_v2_flash", "MiMo-V2-Flash", 15.45),
    ("mimo_v2", "MiMo-V2.5-Pro", 41.89),
    ("minimax_m2", "MiniMax-M2", 11.03),
]


@pytest.mark.parametrize("model_type, name, billions", TOTALS)
def test_a_preset_has_the_published_number_of_parameters(model_type, name, billions):
    with torch.device("meta"):
        weights = Weights(Model(family_of(model_type).preset(name)))
    total = sum(torch.Size(shape).numel() for shape in weights.shapes.values())
    assert total / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.mark.parametrize("model_type, name, billions", ACTIVE)
def test_a_preset_works_on_one_token_with_the_published_number_of_parameters(model_type, name, billions):
    config = family_of(model_type).preset(name)
    with torch.device("meta"):
        shapes = Weights(Model(config)).shapes
    active = 0.0
    for weight, shape in shapes.items():
        share = 1.0
        if ".experts_" in weight:
            moe = config.sublayers[int(weight.split(".")[1])].module
            share = moe.num_experts_per_token / moe.num_experts
        active += share * torch.Size(shape).numel()
    assert active / 1e9 == pytest.approx(billions, rel=2e-3)


# Bytes of one cached token in bf16 in layers without a window, and of 128 tokens in layers with one.
CACHES = [("mimo_v2_flash", "MiMo-V2-Flash", 23040, 25.6e6), ("mimo_v2", "MiMo-V2.5-Pro", 51200, 39.3e6)]


@pytest.mark.parametrize("model_type, name, per_token, window_bytes", CACHES)
def test_windows_are_declared_where_they_are_published(model_type, name, per_token, window_bytes):
    with torch.device("meta"):
        specs = Model(family_of(model_type).preset(name)).to(torch.bfloat16).cache_specs()
    assert sum(spec.bytes_per_token for spec in specs if spec.window is None) == per_token
    found = sum(spec.bytes_per_token * spec.window for spec in specs if spec.window is not None)
    assert found == pytest.approx(window_bytes, rel=5e-3)
