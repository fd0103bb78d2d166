"""Norm and rotation of heads in one pass are the two steps, bit for bit."""

import pytest
import torch

from hyla.layers.norms import RMSNorm
from hyla.layers.rope import norm_and_rotate, rotary_table
from hyla.ops.batch import Batch

pytestmark = pytest.mark.usefixtures("each_backend")

LENGTHS, HEADS, WIDTH = (3, 1, 70), 3, 37
TOLERANCE = 1e-6
"""Absolute error of fp32 numbers of size 1 against float64."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "pairs"])
@pytest.mark.parametrize("rotary_dim", [0, 10, 34])
@pytest.mark.parametrize("is_normed", [False, True], ids=["plain", "normed"])
def test_one_pass_equals_the_steps_under_autograd(dtype, interleaved, rotary_dim, is_normed):
    generator = torch.Generator().manual_seed(rotary_dim)
    batch = Batch.packed(LENGTHS)
    fused_TW = torch.randn(batch.num_tokens, HEADS * WIDTH + 5, generator=generator).to(dtype)
    x_THK = fused_TW[:, 5:].unflatten(-1, (HEADS, WIDTH))
    norm = None
    if is_normed:
        norm = RMSNorm(WIDTH, eps=1e-5, zero_centered=True).to(dtype)
        norm.weight.data = torch.randn(WIDTH, generator=generator).to(dtype)
    cos_sin = rotary_table(rotary_dim, 1e4)(batch, torch.float32) if rotary_dim else None
    for out in (dtype, None):
        steps = norm_and_rotate(x_THK.clone().requires_grad_(), norm, cos_sin, interleaved=interleaved, dtype=out)
        with torch.no_grad():
            found = norm_and_rotate(x_THK, norm, cos_sin, interleaved=interleaved, dtype=out)
        assert found.dtype == steps.dtype == (out or torch.float32)
        assert torch.equal(found, steps)
    with torch.no_grad():
        wide = None if norm is None else RMSNorm(WIDTH, eps=1e-5, zero_centered=True).double()
        if norm is not None:
            wide.weight.data = norm.weight.double()
        table = rotary_table(rotary_dim, 1e4)(batch, torch.float64) if rotary_dim else None
        expected = norm_and_rotate(x_THK.double(), wide, table, interleaved=interleaved)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
