"""Gradients by rows: right beside float64, and the same bits wherever a row lies and whatever lies beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from hyla.ops import moe
from hyla.ops.batch import Batch
from hyla.ops.exact import primitives, rows
from hyla.ops.exact.cross_entropy import cross_entropy
from hyla.ops.exact.gates import decays_and_betas, gated_norm
from hyla.ops.exact.mixers import gated_group_norm, rates_and_values
from hyla.ops.short_conv import short_conv
from hyla.ops.short_conv.heads import conv_heads
from hyla.ops.weights import HeadMatrices, Plain

pytestmark = pytest.mark.usefixtures("each_backend")

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
"""Of a gradient, by its largest element: fp32 sums of some hundred terms; bf16's 8 bits, rounded two or three times."""

PLACES = ((0, 0), (1, 0), (5, 70), (64, 3), (130, 17))
"""Rows before and behind the ones that are looked at."""

T, H, K = 45, 3, 21
W = H * K


@dataclass(frozen=True)
class Case:
    """A function of rows and parameters."""

    function: Callable[..., Sequence[torch.Tensor]]
    rows: tuple[tuple[int, ...], ...]
    """Shapes of one row of each argument that has rows."""
    parameters: tuple[tuple[int, ...], ...] = ()
    wide_rows: frozenset[int] = frozenset()
    """Arguments with rows that are fp32 whatever the dtype."""
    wide_parameters: frozenset[int] = frozenset()


def head_matrices(is_transposed: bool, x_THI: torch.Tensor, stored: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (HeadMatrices(stored, is_transposed).product(x_THI),)


def experts(x_TD: torch.Tensor, weights_Tk: torch.Tensor, *stacks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each row goes where its own numbers say."""
    ids_Tk = x_TD.detach()[:, :4].float().topk(2, dim=-1)[1]
    activation = "swiglu" if len(stacks) == 3 else "relu2"
    return (moe.experts(x_TD, weights_Tk, ids_Tk, Plain(stacks[:-1]), Plain(stacks[-1:]), activation),)


def group_norm(is_gate_first: bool, x, gate, rows_TC, weight, factor_H) -> tuple[torch.Tensor, ...]:
    skip = (rows_TC, factor_H) if is_gate_first else None
    options = {"groups": H, "eps": 1e-5, "activation": "silu" if is_gate_first else "sigmoid", "skip": skip}
    return (gated_group_norm(x, gate, weight, is_gate_first=is_gate_first, dtype=gate.dtype, **options),)


def head_norm(activation, zero_centered: bool, x_THV, gate_TW, weight_V) -> tuple[torch.Tensor, ...]:
    options = {"eps": 1e-6, "zero_centered": zero_centered, "activation": activation, "dtype": gate_TW.dtype}
    return (gated_norm(x_THV, weight_V, gate_TW, **options),)


def mamba_rates(convolved, dt, bias, dt_bias, log_rate) -> Sequence[torch.Tensor]:
    return rates_and_values(convolved, bias, dt, dt_bias, -log_rate.exp(), head_dim=4, limit=(0.3, 1.5))


CASES = {
    "sigmoid": Case(lambda x: (primitives.sigmoid(x),), ((W,),), wide_rows=frozenset({0})),
    "silu": Case(lambda x: (primitives.silu(x),), ((W,),), wide_rows=frozenset({0})),
    "softplus": Case(lambda x: (primitives.softplus(x),), ((W,),), wide_rows=frozenset({0})),
    "softmax": Case(lambda x: (primitives.softmax_last(x),), ((W,),), wide_rows=frozenset({0})),
    "swiglu": Case(lambda x: (primitives.swiglu(*x.chunk(2, dim=-1)),), ((2 * W,),)),
    "swiglu, beside": Case(lambda x: (primitives.swiglu(x),), ((2 * W,),)),
    "rms_norm": Case(lambda x, w: (primitives.rms_norm(x, w, eps=1e-5, zero_centered=True),), ((W,),), ((W,),)),
    "rms_norm of heads": Case(lambda x, w: (primitives.rms_norm(x, w, eps=1e-5),), ((H, K),), ((K,),)),
    "l2_norm": Case(lambda x: (primitives.l2_norm(x),), ((H, K),), wide_rows=frozenset({0})),
    "gated norm, silu": Case(partial(head_norm, "silu", True), ((H, K), (W,)), ((K,),), frozenset({0})),
    "gated norm, sigmoid": Case(partial(head_norm, "sigmoid", False), ((H, K), (W,)), ((K,),), frozenset({0})),
    "group norm": Case(
        partial(group_norm, False), ((W,), (W,), (W,)), ((W,), (H,)), frozenset({0, 2}), frozenset({1})
    ),
    "group norm with a skip": Case(
        partial(group_norm, True), ((W,), (W,), (W,)), ((W,), (H,)), frozenset({0, 2}), frozenset({1})
    ),
    "rates": Case(mamba_rates, ((20,), (3,)), ((20,), (3,), (3,)), frozenset({0}), frozenset({1, 2})),
    "decays of channels": Case(
        lambda raw, beta, a, bias: decays_and_betas(raw, beta, a, bias),
        ((W,), (H,)), ((H,), (W,)), wide_parameters=frozenset({0, 1}),
    ),
    "decays of heads": Case(
        lambda raw, beta, a, bias: decays_and_betas(raw, beta, a, bias),
        ((H,), (H,)), ((H,), (H,)), wide_parameters=frozenset({0, 1}),
    ),
    "bounded decays": Case(
        lambda raw, beta, a, bias: decays_and_betas(raw, beta, a, bias, lower_bound=-5.0),
        ((W,), (H,)), ((H,), (W,)), wide_parameters=frozenset({0, 1}),
    ),
    "product": Case(lambda x, w, b: (rows.linear(x, w, b),), ((W,),), ((37, W), (37,))),
    "wide product": Case(lambda x, w: (rows.linear(x, w),), ((130,),), ((259, 130),)),
    "heads, in_out": Case(partial(head_matrices, False), ((H, K),), ((H, K, 17),), frozenset({0})),
    "heads, out_in": Case(partial(head_matrices, True), ((H, K),), ((H, 17, K),), frozenset({0})),
    "experts": Case(experts, ((24,), (2,)), ((4, 19, 24), (4, 19, 24), (4, 24, 19)), frozenset({1})),
    "experts without gates": Case(experts, ((24,), (2,)), ((4, 19, 24), (4, 24, 19)), frozenset({1})),
}  # fmt: skip


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(case: Case, dtype: torch.dtype, before: int = 0, behind: int = 0):
    """(rows, parameters, gradients' seeds): T rows that are always the same between others that never are."""
    own = [draw((T, *shape), 7 + n) for n, shape in enumerate(case.rows)]
    others = [draw((before + behind, *shape), 100 * before + behind + n) for n, shape in enumerate(case.rows)]
    whole = [torch.cat([other[:before], x, other[before:]]) for x, other in zip(own, others)]
    whole = [x if n in case.wide_rows else x.to(dtype) for n, x in enumerate(whole)]
    parameters = [draw(shape, 50 + n) * 0.5 for n, shape in enumerate(case.parameters)]
    parameters = [x if n in case.wide_parameters else x.to(dtype) for n, x in enumerate(parameters)]
    return whole, parameters


def gradients_of(case: Case, tensors, before: int = 0, behind: int = 0) -> list[torch.Tensor]:
    """Of the T rows, then of the parameters; the rows beside them have gradients of their own."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    outputs = case.function(*leaves)
    grads = []
    for n, y in enumerate(outputs):
        others = draw((before + behind, *y.shape[1:]), 900 + before + n)
        grads.append(torch.cat([others[:before], draw((T, *y.shape[1:]), 70 + n), others[before:]]).to(y.dtype))
    found = torch.autograd.grad(outputs, leaves, grads, allow_unused=True)
    found = [torch.zeros_like(x) if grad is None else grad for grad, x in zip(found, leaves)]
    count = len(case.rows)
    return [grad[before : before + T] for grad in found[:count]] + found[count:]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_float64_s(name, dtype):
    case = CASES[name]
    tensors = [x for part in inputs_of(case, dtype) for x in part]
    got = gradients_of(case, tensors)
    expected = gradients_of(case, [x.double() for x in tensors])
    for n, (mine, exact, x) in enumerate(zip(got, expected, tensors, strict=True)):
        assert mine.dtype == x.dtype and mine.shape == x.shape
        error = (mine.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30)
        assert error <= TOLERANCE[dtype], f"argument {n}: {error:.1e}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_row_s_gradient_depends_on_that_row_alone(name, dtype):
    case, expected = CASES[name], None
    for before, behind in PLACES:
        tensors = [x for part in inputs_of(case, dtype, before, behind) for x in part]
        got = gradients_of(case, tensors, before, behind)[: len(case.rows)]
        expected = expected or got
        assert all(map(torch.equal, got, expected)), f"{before} rows before, {behind} behind"


@pytest.mark.parametrize("chunk_rows", [1, 7, 64])
def test_a_row_s_loss_gradient_does_not_depend_on_the_chunks(chunk_rows):
    hidden_TD, weight_VD, targets_T = draw((T, 24), 1), draw((5001, 24), 2), torch.arange(T) * 7
    expected = None
    for before, behind in PLACES:
        others = draw((before + behind, 24), before)
        x_TD = torch.cat([others[:before], hidden_TD, others[before:]]).requires_grad_()
        targets = torch.cat([torch.zeros(before, dtype=torch.int64), targets_T, torch.ones(behind, dtype=torch.int64)])
        cross_entropy(x_TD, weight_VD, targets, chunk_rows=chunk_rows, denominator=3).backward()
        assert x_TD.grad is not None
        got = x_TD.grad[before : before + T]
        expected = got if expected is None else expected
        assert torch.equal(got, expected)


def test_the_loss_and_its_gradients_equal_float64_s():
    hidden_TD, weight_VD, targets_T = draw((T, 24), 1), draw((301, 24), 2), torch.arange(T) * 3
    leaves = [x.clone().requires_grad_() for x in (hidden_TD, weight_VD)]
    exact = [x.double().requires_grad_() for x in (hidden_TD, weight_VD)]
    loss = cross_entropy(*leaves, targets_T, chunk_rows=16)
    expected = torch.nn.functional.cross_entropy(exact[0] @ exact[1].t(), targets_T)
    loss.backward()
    expected.backward()
    assert abs(loss.item() - expected.item()) <= 1e-6 * expected.item()
    for mine, other in zip(leaves, exact):
        assert mine.grad is not None and other.grad is not None
        assert (mine.grad - other.grad).abs().max() <= 2e-6 * other.grad.abs().max()


LENGTHS = ((T,), (1, T), (70, T, 2), (3, T, 129, 1))
KEY_HEADS, VALUE_HEADS, VALUE_DIM = 2, 3, 13


@pytest.mark.parametrize("taps", [1, 2, 4, 5])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("has_heads", [False, True])
@pytest.mark.parametrize("key_dim", [5, 300])
def test_the_convolution_s_gradients(has_heads, dtype, taps, key_dim):
    """Right beside float64; and a sequence's are the same beside any other ones."""
    channels = 2 * KEY_HEADS * key_dim + VALUE_HEADS * VALUE_DIM
    weight_CL = draw((channels, taps), 1).to(dtype)
    sizes = {"key_heads": KEY_HEADS, "key_dim": key_dim, "value_heads": VALUE_HEADS}

    def run(x_TC, weight, batch):
        if not has_heads:
            return (short_conv(x_TC, weight, batch=batch, cache=None),)
        return conv_heads(x_TC, weight, batch=batch, cache=None, tail=None, scale=0.3, **sizes)

    expected = None
    for lengths in LENGTHS:
        place, batch = lengths.index(T), Batch.packed(list(lengths))
        x_TC = torch.cat([draw((length, channels), 2 if length == T else length) for length in lengths]).to(dtype)
        first = sum(lengths[:place])
        leaves = [x_TC.requires_grad_(), weight_CL.detach().requires_grad_()]
        outputs = run(*leaves, batch)
        grads = [draw(y.shape, 3) for y in outputs]
        for grad, y in zip(grads, outputs):
            grad[first : first + T] = draw((T, *y.shape[1:]), 4)
        got = torch.autograd.grad(outputs, leaves, grads)
        exact = [x.detach().double().requires_grad_() for x in leaves]
        right = torch.autograd.grad(run(*exact, batch), exact, [grad.double() for grad in grads])
        for mine, other in zip(got, right):
            assert (mine.double() - other).abs().max() <= TOLERANCE[dtype] * other.abs().max()
        rows_TC = got[0][first : first + T]
        expected = rows_TC if expected is None else expected
        assert torch.equal(rows_TC, expected), f"beside {lengths}"


def test_a_gradient_does_not_depend_on_the_stretches_of_the_torch_backend(monkeypatch, torch_operators):
    """A batch that is cut into many pieces on its way back."""
    from hyla.ops.short_conv import pytorch

    x_TC, weight_CL, batch = draw((50, 6), 1), draw((6, 4), 2), Batch.packed([20, 30])
    found = []
    for elements in (1 << 18, 18, 60):
        monkeypatch.setattr(pytorch, "STRETCH_ELEMENTS", elements)
        leaf = x_TC.clone().requires_grad_()
        short_conv(leaf, weight_CL, batch=batch, cache=None).backward(draw((50, 6), 3))
        found.append(leaf.grad)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
