"""Heads normed and rotated, against the formulas in float64."""

import pytest
import torch

from hyla.ops.rotary import norm_and_rotate
from hyla.ops.rotary.reference import norm_and_rotate_reference

pytestmark = pytest.mark.usefixtures("each_backend")

TOLERANCE = 2e-6


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("zero_centered", [False, True])
@pytest.mark.parametrize("rotary_dim", [6, 14])
def test_heads_are_those_of_the_formulas(rotary_dim, zero_centered, interleaved):
    generator = torch.Generator().manual_seed(1)
    x_THK, weight_K = (torch.randn(*shape, generator=generator) for shape in ((9, 3, 14), (14,)))
    angles = torch.randn(9, rotary_dim // 2, generator=generator)
    cos_sin_TR = torch.cat([angles.cos(), angles.sin()], dim=1)
    options = {"eps": 1e-5, "zero_centered": zero_centered, "interleaved": interleaved}
    expected = norm_and_rotate_reference(x_THK.double(), weight_K.double(), cos_sin_TR.double(), **options)
    found = norm_and_rotate(x_THK, weight_K, cos_sin_TR, **options)
    assert found.dtype == torch.float32 and found.shape == x_THK.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
