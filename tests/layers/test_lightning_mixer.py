"""The lightning mixer: slopes, the norm by groups, and what it refuses."""

import math
from itertools import pairwise

import pytest
import torch

from hyla.caches import Cache
from hyla.errors import ConfigError
from hyla.layers.norms import GroupRMSNorm
from hyla.layers.slopes import head_slopes, slopes
from hyla.models.build import build_module
from hyla.models.config import LightningConfig
from hyla.ops.batch import Batch

MINIMAX = {"num_heads": 3, "head_dim": 20, "slopes": "minimax", "layer": 0, "num_layers": 4}


def test_slopes_of_a_power_of_two_of_heads_are_the_published_ones():
    assert head_slopes(8, "bailing") == head_slopes(8, "minimax") == [2.0**-power for power in range(1, 9)]


def test_other_numbers_of_heads_follow_each_publisher_s_rule():
    assert head_slopes(3, "minimax") == [2 ** (-8 / 3), 2 ** (-16 / 3), 2**-8]
    assert head_slopes(3, "bailing") == [2**-4, 2**-8, 2**-2]
    assert head_slopes(6, "bailing") == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]


@pytest.mark.parametrize(
    "schedule, first, last",
    [
        ("minimax", 1.00001, 1.00001 - 19 / 19.00001),
        ("bailing", 1 + 1 / 19 + 1e-5, 1 / 19 + 1e-5),
        ("bailing_engines", 1.00001, 1e-5),
        ("bailing_clamped", 1.00001, 1 / 19 + 1e-5),
    ],
)
def test_deeper_layers_decay_less_by_each_schedule(schedule, first, last):
    factors = [slopes(1, schedule=schedule, layer=layer, num_layers=20)[0] * 2**8 for layer in range(20)]
    assert math.isclose(factors[0], first, rel_tol=1e-12) and math.isclose(factors[-1], last, rel_tol=1e-9)
    assert all(later <= earlier for earlier, later in pairwise(factors))
    assert all(factor > 0 for factor in factors)


def test_the_slowest_published_decay_is_still_a_decay():
    """In bf16 it would be exactly one: slopes and decays are never rounded to the model's dtype."""
    slowest = slopes(64, schedule="minimax", layer=78, num_layers=80)[-1]
    assert torch.exp(-torch.tensor(slowest)).to(torch.bfloat16) == 1.0
    assert torch.exp(-torch.tensor(slowest, dtype=torch.float64)).float() < 1.0


def test_each_group_is_normed_apart_and_each_channel_has_its_weight():
    norm = GroupRMSNorm(12, num_groups=3, eps=1e-6)
    weight = torch.arange(1.0, 13.0)
    norm.weight = torch.nn.Parameter(weight)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = [part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() for part in x.split(4, dim=-1)]
    assert torch.allclose(norm(x), torch.cat(parts, dim=-1) * weight.double(), rtol=1e-12)


def test_the_mixer_has_gradients_for_every_parameter():
    module = build_module(LightningConfig(**MINIMAX, silu=True, scaled=False), 32)
    torch.nn.init.ones_(module.norm.weight)
    module.initialize(0.2, torch.Generator().manual_seed(0))
    x = torch.randn(70, 32, generator=torch.Generator().manual_seed(1))
    module(x, Batch.packed([40, 30]), None).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"layer": 4}, "layer 4 must be below num_layers 4"),
        ({"slopes": "bailing", "num_layers": 1}, "not defined for a single layer"),
        ({"norm_groups": 7}, "multiple of norm_groups 7"),
        ({"slopes": "linear"}, "slopes"),
    ],
)
def test_a_mixer_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        LightningConfig(**{**MINIMAX, **fields})


def test_rejected_tokens_can_be_forgotten_back_to_the_last_closed_chunk():
    module = build_module(LightningConfig(**MINIMAX), 32)
    cache = Cache([module.cache_spec()], num_pages=2, num_slots=1)
    sequence = cache.open()
    cache.batch([(sequence, 83)])
    cache.commit(sequence, 83)
    assert cache.oldest_length(sequence) == 64
    cache.rollback(sequence, 65)
    cache.close(sequence)
