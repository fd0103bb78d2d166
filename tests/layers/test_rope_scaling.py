"""Scaled position codes against transformers' own tables."""

import pytest
import torch

from hyla.layers.rope import TABLE_POSITIONS, RotaryTable, rotary_table
from hyla.layers.rope_scaling import plain_frequencies
from hyla.models.formats.published import RopeParameters
from hyla.models.kinds.arguments import scaling_of
from hyla.ops.batch import Batch

FP32_TOLERANCE = 2e-6
"""Relative: transformers makes its frequencies in fp32, and llama3's blend subtracts nearly equal numbers (1.04e-6)."""

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}
CASES = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {**LLAMA3, "original_max_position_embeddings": 8192},
    "llama3, short": {**LLAMA3, "original_max_position_embeddings": 256, "factor": 32.0},
    "yarn": YARN,
    "yarn, deepseek": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "yarn, uneven mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.4},
    "yarn, one mscale": {**YARN, "mscale": 0.7},
    "yarn, given factor": {**YARN, "attention_factor": 1.7, "beta_fast": 20.0, "beta_slow": 2.0},
    "yarn, not truncated": {**YARN, "truncate": False, "factor": 4.0},
    "yarn, nothing stretched": {**YARN, "factor": 1.0},
}


def scaling(keys):
    return scaling_of(RopeParameters(**keys).scaling())


@pytest.mark.parametrize("theta", [10000.0, 5e5])
@pytest.mark.parametrize("head_dim, factor", [(64, 1.0), (44, 0.5)])
@pytest.mark.parametrize("name", CASES)
def test_frequencies_and_attention_factor_are_those_of_transformers(name, head_dim, factor, theta):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    keys = {**CASES[name], "rope_theta": theta, "partial_rotary_factor": factor}
    max_len = int(keys.get("original_max_position_embeddings", 4096) * keys["factor"])
    config = LlamaConfig(head_dim=head_dim, rope_parameters=dict(keys), max_position_embeddings=max_len)
    want, want_factor = ROPE_INIT_FUNCTIONS[keys["rope_type"]](config, torch.device("cpu"))
    mine = scaling(keys)
    got = mine.frequencies(int(head_dim * factor), theta)
    torch.testing.assert_close(got, want.double(), rtol=FP32_TOLERANCE, atol=0)
    assert mine.attention_factor == pytest.approx(want_factor, rel=1e-12)
    if keys["factor"] > 1:
        assert not torch.allclose(got, plain_frequencies(int(head_dim * factor), theta))


def test_factors_divide_each_frequency():
    factors = [1.0, 1.5, 4.0, 8.25, 8.25, 32.0]
    mine = scaling({"rope_type": "hyla_factors", "factors": factors})
    assert mine.attention_factor == 1.0
    expected = [500.0 ** (-2 * i / 12) / factor for i, factor in enumerate(factors)]
    assert mine.frequencies(12, 500.0).tolist() == pytest.approx(expected, rel=1e-15)
    assert rotary_table(12, 500.0, mine) is rotary_table(12, 500.0, scaling_of(mine_again(factors)))


def mine_again(factors):
    return RopeParameters(rope_type="hyla_factors", factors=list(factors)).scaling()


@pytest.mark.parametrize("theta", [10000.0, 5e5])
def test_the_factors_of_a_scaling_stand_for_it(theta):
    """What a file gives instead of llama3's numbers: fp32 quotients of the frequencies."""
    llama3 = scaling(CASES["llama3"])
    factors = (plain_frequencies(64, theta) / llama3.frequencies(64, theta)).float().tolist()
    assert factors[0] == 1.0 and factors[-1] == pytest.approx(8.0)
    mine = scaling({"rope_type": "hyla_factors", "factors": factors})
    torch.testing.assert_close(mine.frequencies(64, theta), llama3.frequencies(64, theta), rtol=1e-7, atol=0)


def test_a_table_holds_scaled_angles_and_its_pages_do_not_depend_on_its_reach():
    mine = scaling({**YARN, "mscale": 0.7, "mscale_all_dim": 0.4})
    near, far = RotaryTable(12, 1000.0, mine), RotaryTable(12, 1000.0, mine)
    position = TABLE_POSITIONS + 5
    far(Batch((1,), (3 * TABLE_POSITIONS,), (1,), ((),)), torch.float64)
    batch = Batch((1,), (position,), (1,), ((),))
    found = near(batch, torch.float64)
    assert torch.equal(found, far(batch, torch.float64))
    angle = position * mine.frequencies(12, 1000.0)
    assert torch.equal(found[0], torch.cat([angle.cos(), angle.sin()]) * mine.attention_factor)


def test_layers_share_a_table_by_its_numbers():
    table = rotary_table(12, 1000.0, scaling(YARN))
    assert rotary_table(12, 1000.0, scaling(YARN)) is table
    assert rotary_table(12, 1000.0, scaling({**YARN, "factor": 4.0})) is not table
    assert rotary_table(12, 1000.0) is not table
