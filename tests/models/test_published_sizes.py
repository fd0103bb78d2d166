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
    ("nemotron_h", "Nemotron-3-Nano-30B-A3B", 31.58),
    ("nemotron_h", "Nemotron-3-Super-120B-A12B", 120.67),
    ("qwen3", "Qwen3-0.6B", 0.596),
    ("qwen3", "Qwen3-8B", 8.19),
    ("qwen3", "Qwen3-32B", 32.76),
]


@pytest.mark.parametrize("model_type, name, billions", TOTALS)
def test_a_preset_has_the_published_number_of_parameters(model_type, name, billions):
    with torch.device("meta"):
        weights = Weights(Model(family_of(model_type).preset(name)))
    total = sum(torch.Size(shape).numel() for shape in weights.shapes.values())
    assert total / 1e9 == pytest.approx(billions, rel=2e-3)


# Published presets: parameters that one token meets (in billions), anchors (bytes per sequence), KV (bytes per token).
NEMOTRON_3 = [
    ("Nemotron-3-Nano-30B-A3B", 3.58, 23 * 64 * 64 * 128 * 4, 6 * 2 * 2 * 128 * 2),
    ("Nemotron-3-Super-120B-A12B", 12.77, 40 * 128 * 64 * 128 * 4, 8 * 2 * 2 * 128 * 2),
]


@pytest.mark.parametrize("name, billions, state_bytes, kv_bytes", NEMOTRON_3)
def test_nemotron_3_has_the_published_active_parameters_and_cache_sizes(name, billions, state_bytes, kv_bytes):
    with torch.device("meta"):
        model = Model(family_of("nemotron_h").preset(name)).bfloat16()
    idle = 0
    for config, sublayer in zip(model.config.sublayers, model.sublayers):
        if config.module.kind == "moe":
            experts = sublayer.module.experts_up.numel() + sublayer.module.experts_down.numel()
            share = config.module.num_experts_per_token / config.module.num_experts
            idle += experts * (1 - share)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (total - idle) / 1e9 == pytest.approx(billions, rel=2e-3)
    specs = model.cache_specs()
    anchors = [tensor.nbytes for spec in specs for tensor in spec.slot_tensors if tensor.role == "anchor"]
    assert sum(anchors) == state_bytes
    assert sum(spec.bytes_per_token for spec in specs) == kv_bytes
