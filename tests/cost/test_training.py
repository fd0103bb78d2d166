"""Training FLOPs, hours and memory."""

import pytest

from hyla.cost.devices import find_device
from hyla.cost.parameters import count_parameters
from hyla.cost.target import find_target
from hyla.cost.training import (
    executed_flops_per_token,
    forward_flops_per_token,
    tokens_for_budget,
    train_flops_per_token,
    train_hours,
    training_memory,
)
from hyla.errors import ConfigError
from hyla.models.formats.presets import presets


def config_of(name):
    return find_target(name).config


def test_a_dense_model_at_a_short_length_costs_six_flops_a_parameter():
    config = config_of("qwen3-32b")
    matrices = count_parameters(config).total - count_parameters(config).embedding
    assert train_flops_per_token(config, 64) == pytest.approx(6 * matrices, rel=2e-3)


def test_attention_adds_what_its_pairs_cost():
    config = config_of("qwen3-32b")
    more = forward_flops_per_token(config, 8192) - forward_flops_per_token(config, 4096)
    # 64 layers, 64 heads, 4 x 128 a pair, on average half as many pairs as tokens.
    assert more == pytest.approx(64 * 64 * 4 * 128 * 4096 / 2)


@pytest.mark.parametrize("name", presets())
def test_recomputation_is_executed_but_not_counted(name):
    config = config_of(name)
    counted, executed = train_flops_per_token(config, 4096), executed_flops_per_token(config, 4096)
    again = executed_flops_per_token(config, 4096, recomputes=True)
    assert counted <= executed < again <= 1.45 * counted
    # The selection of sparse attention is a constant of training: its indexer has no backward pass.
    least = 1.9 if "V3.2" in name else 3.0 - 1e-9
    assert least * forward_flops_per_token(config, 4096) <= counted


def test_a_hybrid_trains_longer_sequences_for_less():
    hybrid, full = config_of("qwen3-next-80b-a3b"), config_of("qwen3-30b-a3b")
    growth = [train_flops_per_token(c, 131072) / train_flops_per_token(c, 4096) for c in (hybrid, full)]
    assert growth[0] < 0.5 * growth[1]


def test_a_budget_buys_tokens_and_tokens_take_hours():
    config, h100 = config_of("kimi-linear-48b-a3b"), find_device("h100")
    tokens = tokens_for_budget(config, 4096, 1e22)
    assert tokens * train_flops_per_token(config, 4096) == pytest.approx(1e22)
    hours = train_hours(config, 4096, tokens, h100, 8)
    assert train_hours(config, 4096, 2 * tokens, h100, 8) == pytest.approx(2 * hours)
    assert hours < train_hours(config, 4096, tokens, h100, 8, recomputes=True) < 1.4 * hours
    used = 1e22 / (hours * 3600 * 8 * h100.peak("bf16"))
    assert 0.1 < used < 0.7
    with pytest.raises(ConfigError, match="buys nothing"):
        tokens_for_budget(config, 4096, 0.0)


def test_recomputation_saves_activations():
    memory = training_memory(config_of("qwen3.5-9b"), 8192)
    assert memory.recomputed_activation_bytes < 0.2 * memory.activation_bytes
    assert memory.weights_and_optimizer_bytes == 18 * count_parameters(config_of("qwen3.5-9b")).total
    assert memory.logit_bytes == 8 * 8192 * 248320
    twice = training_memory(config_of("qwen3.5-9b"), 16384)
    assert twice.activation_bytes == pytest.approx(2 * memory.activation_bytes)
