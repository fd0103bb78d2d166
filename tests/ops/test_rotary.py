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


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=["fp32", "bf16", "fp64"])
def test_gradients_are_those_of_the_formulas_and_autograd_changes_no_bit(dtype, has_norm, interleaved):
    generator = torch.Generator().manual_seed(2)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x_THK, weight_K, grad = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((9, 3, 14), (14,), (9, 3, 14))
    )
    angles = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    cos_sin_TR = 1.3 * torch.cat([angles.cos(), angles.sin()], dim=1).to(wide)
    options = {"eps": 1e-5 if has_norm else None, "interleaved": interleaved}
    weight_K = weight_K if has_norm else None
    expected = norm_and_rotate(x_THK, weight_K, cos_sin_TR, dtype=dtype, **options)
    leaves = [x.detach().clone().requires_grad_() for x in (x_THK, weight_K) if x is not None]
    found = norm_and_rotate(*(*leaves, None)[:2], cos_sin_TR, dtype=dtype, **options)
    assert torch.equal(found, expected) and found.dtype == dtype
    grads = torch.autograd.grad(found, leaves, grad)
    doubles = [x.detach().double().requires_grad_() for x in leaves]
    right = norm_and_rotate_reference(*(*doubles, None)[:2], cos_sin_TR.double(), zero_centered=False, **options)
    bound = {torch.float32: TOLERANCE, torch.bfloat16: 2.0**-7, torch.float64: 1e-12}[dtype]
    for one, other in zip(grads, torch.autograd.grad(right, doubles, grad.double()), strict=True):
        assert one.dtype == dtype and (one - other).norm() <= bound * other.norm()
