"""The delta rules' byte formulas against the tensors that are really kept."""

from math import prod

from hyla.ops import gated_delta, kda
from hyla.ops.gated_delta import cost as gated_cost
from hyla.ops.kda import cost as kda_cost


def kept_bytes(tensors, role):
    return sum(prod(shape) * dtype.itemsize for _, shape, dtype, kind in tensors if kind == role)


def test_gated_delta_bytes_are_those_of_its_tensors():
    sizes = {"num_key_heads": 2, "num_value_heads": 6, "key_dim": 24, "value_dim": 40}
    tensors = gated_delta.cache_tensors(**sizes)
    assert kept_bytes(tensors, "open") == gated_cost.open_bytes(**sizes)
    anchor_sizes = {name: sizes[name] for name in ("num_value_heads", "key_dim", "value_dim")}
    assert kept_bytes(tensors, "anchor") == gated_cost.state_bytes(**anchor_sizes)


def test_kda_bytes_are_those_of_its_tensors():
    sizes = {"num_heads": 3, "key_dim": 24, "value_dim": 40}
    tensors = kda.cache_tensors(**sizes)
    assert kept_bytes(tensors, "open") == kda_cost.open_bytes(**sizes)
    assert kept_bytes(tensors, "anchor") == kda_cost.state_bytes(**sizes)


def test_open_rows_add_the_stated_share_of_the_state():
    gated = {"num_key_heads": 16, "num_value_heads": 32, "key_dim": 128, "value_dim": 128}
    assert 0.8 < gated_cost.open_bytes(**gated) / (4 * 32 * 128 * 128) < 0.95
    heads = {"num_heads": 32, "key_dim": 128, "value_dim": 128}
    assert 1.35 < kda_cost.open_bytes(**heads) / (4 * 32 * 128 * 128) < 1.5
