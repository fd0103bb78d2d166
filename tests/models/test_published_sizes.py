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
    ("bailing_hybrid_3", "Ling-3.0-Flash", 124.41),
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
