"""What stands around the operators without a solve: one kernel has the bits of the primitives it stands for."""

import pytest
import torch

from hyla.ops.exact.mixers import gated_group_norm, in_floats, rates_and_values

pytestmark = pytest.mark.usefixtures("each_backend")

TOKENS = 37
DTYPES = (torch.float32, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(*shape, seed=0, dtype=torch.float32):
    return (4.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def composed(function, *tensors, **options):
    """The same with gradients wanted: the composition computes."""
    return function(*(x.clone().requires_grad_() for x in tensors), **options)


@each_dtype
@pytest.mark.parametrize("activation", ["none", "sigmoid", "silu"])
def test_rows_in_floats_have_the_bits_of_the_primitive(dtype, activation):
    wide = draw(TOKENS, 130, dtype=dtype)
    for x in (wide, wide[:, 3:49]):
        assert torch.equal(in_floats(x, activation), composed(in_floats, x, activation=activation))
        assert in_floats(x, activation).dtype == torch.float32


@each_dtype
@pytest.mark.parametrize("is_gate_first", [False, True])
@pytest.mark.parametrize("activation", ["sigmoid", "silu"])
@pytest.mark.parametrize("groups, head", [(1, 12), (3, 20), (4, 64)])
def test_a_gated_norm_of_groups_has_the_bits_of_the_primitives(dtype, is_gate_first, activation, groups, head):
    width = 2 * groups * head
    x, weight = draw(TOKENS, width), draw(width, seed=2, dtype=dtype)
    wide = draw(TOKENS, width + 5, seed=1, dtype=dtype)
    skip = (draw(TOKENS, width + 3, seed=3)[:, :width], draw(2 * groups, seed=4))
    sizes = {"groups": groups, "eps": 1e-5, "activation": activation, "is_gate_first": is_gate_first, "dtype": dtype}
    for added in (None, skip):
        inputs = (x, wide[:, 5:], weight)
        got = gated_group_norm(*inputs, skip=added, **sizes)
        assert got.dtype == dtype and torch.equal(got, composed(gated_group_norm, *inputs, skip=added, **sizes))


@each_dtype
@pytest.mark.parametrize("limit", [(0.0, float("inf")), (0.5, 3.0)])
def test_rates_and_values_have_the_bits_of_the_primitives(dtype, limit):
    heads, head_dim, channels = 5, 12, 5 * 12 + 14
    raw = draw(TOKENS, heads + 2, seed=2, dtype=dtype)
    raw[3, 2] = float("nan")
    inputs = (draw(TOKENS, channels), draw(channels, seed=1, dtype=dtype), raw[:, 2:])
    inputs = (*inputs, draw(heads, seed=3), -draw(heads, seed=4).abs())
    got = rates_and_values(*inputs, head_dim=head_dim, limit=limit)
    want = composed(rates_and_values, *inputs, head_dim=head_dim, limit=limit)
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)) and torch.equal(x.isnan(), y.isnan())
    assert got[1].shape == (TOKENS, heads, head_dim) and got[2].isnan().sum() == 1
