"""Absorbed queries and keys, and heads' outputs, against their reference; kernels and autograd give the same bits."""

import pytest
import torch

from hyla.ops import backends
from hyla.ops.latent import absorb, cost, head_outputs, pytorch
from hyla.ops.latent.reference import absorb_reference
from hyla.ops.weights.heads import HeadMatrices, pack_heads

T, H, NOPE, ROPE, LATENT, V, ROTATED = 9, 3, 13, 8, 37, 21, 6
EPS = 1e-5
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def draw(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make(dtype, has_rotation=True):
    """q and kv as parts of wider rows, as a projection gives them."""
    rows = draw(T, H * (NOPE + ROPE) + LATENT + ROPE + 5, seed=0, dtype=dtype)
    q, kv, _ = rows.split([H * (NOPE + ROPE), LATENT + ROPE, 5], dim=1)
    cos_sin = draw(T, ROTATED, seed=1) if has_rotation else None
    return (
        q.unflatten(1, (H, -1)),
        kv,
        draw(LATENT, seed=2, dtype=dtype),
        cos_sin,
        draw(H, NOPE, LATENT, seed=3).to(dtype),
    )


@DTYPES
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("has_rotation", [False, True])
def test_absorbed_queries_and_keys_equal_the_reference(dtype, interleaved, has_rotation, each_backend):
    q, kv, weight, cos_sin, k_up = make(dtype, has_rotation)
    found = absorb(q, kv, weight, cos_sin, HeadMatrices(k_up, False), eps=EPS, interleaved=interleaved)
    doubles = [None if x is None else x.double() for x in (q, kv, weight, cos_sin, k_up.transpose(1, 2))]
    expected = absorb_reference(*doubles, eps=EPS, interleaved=interleaved)
    assert [x.dtype for x in found] == [torch.float32, dtype]
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(found[1].double(), expected[1], rtol=rounding, atol=1e-5)


@DTYPES
@pytest.mark.parametrize("has_gate", [False, True])
def test_kernels_functions_and_packed_matrices_give_the_same_bits(dtype, has_gate):
    q, kv, weight, cos_sin, k_up = make(dtype)
    options = {"eps": EPS, "interleaved": True}
    found = absorb(q, kv, weight, cos_sin, pack_heads(k_up, False), **options)
    composed = pytorch.forward(q, kv, weight, cos_sin, HeadMatrices(k_up, False), **options)
    alone = absorb(q[4:5], kv[4:5], weight, cos_sin[4:5], HeadMatrices(k_up, False), **options)
    assert all(torch.equal(x, y) and torch.equal(x[4:5], z) for x, y, z in zip(found, composed, alone))
    o, v_up = draw(T, H, LATENT, seed=4), draw(H, V, LATENT, seed=5, dtype=dtype)
    gate = draw(T, H + 2, seed=6, dtype=dtype)[:, 1 : H + 1] if has_gate else None
    outputs = head_outputs(o, pack_heads(v_up, True), gate, dtype)
    assert (outputs.shape, outputs.dtype) == ((T, H * V), dtype)
    assert torch.equal(outputs, pytorch.head_outputs(o, HeadMatrices(v_up, True), gate, dtype))
    one = head_outputs(o[4:5], HeadMatrices(v_up, True), None if gate is None else gate[4:5], dtype)
    assert torch.equal(outputs[4:5], one)


def test_heads_outputs_equal_plain_mathematics(each_backend):
    o, v_up, gate = draw(T, H, LATENT, seed=4), draw(H, V, LATENT, seed=5), draw(T, H, seed=6)
    found = head_outputs(o, HeadMatrices(v_up, True), gate, torch.float32)
    expected = torch.einsum("thl,hvl->thv", o.double(), v_up.double()) * gate.double().sigmoid()[..., None]
    torch.testing.assert_close(found.double(), expected.flatten(1), rtol=1e-5, atol=1e-5)


def test_autograd_changes_no_bit_and_reaches_every_input():
    q, kv, weight, cos_sin, k_up = make(torch.float32)
    before = absorb(q, kv, weight, cos_sin, HeadMatrices(k_up, False), eps=EPS, interleaved=False)
    leaves = [x.clone().requires_grad_() for x in (q, kv, weight, k_up)]
    after = absorb(*leaves[:3], cos_sin, HeadMatrices(leaves[3], False), eps=EPS, interleaved=False)
    assert all(torch.equal(x, y) for x, y in zip(before, after))
    sum(x.square().sum() for x in after).backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves)
    frozen = HeadMatrices(k_up.clone().requires_grad_(), False)
    absorb(q, kv, weight, cos_sin, frozen, eps=EPS, interleaved=False)[0].sum().backward()
    assert frozen.stored.grad is not None


def test_float64_takes_the_functions():
    assert backends.choose("latent", torch.zeros(1, 4, dtype=torch.float64)) is pytorch


def test_flops_count_both_matrices_of_each_head():
    assert cost.flops_per_token(num_heads=3, latent_dim=10, nope_dim=4, value_dim=5) == 2 * 3 * 10 * 9
