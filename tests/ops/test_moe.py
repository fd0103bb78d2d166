"""Routing and experts against their references, and their independence of the company a token comes in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import BackendUnavailable, ConfigError
from hyla.ops import backends, moe
from hyla.ops.moe import cost, route, top_k
from hyla.ops.moe.reference import experts_reference, route_reference
from hyla.ops.weights import Plain, pack_stack

T, D, WIDTH, E, K = 37, 20, 12, 6, 3
ROUTINGS = [
    dict(score="softmax", normalize=True),
    dict(score="softmax", normalize=False, scaling=0.5),
    dict(score="sigmoid", normalize=True, scaling=2.446),
    dict(score="sigmoid", normalize=True, num_groups=3, num_groups_kept=2, scaling=2.5),
]
TOLERANCE = 2e-6
"""Relative error of fp32 against float64 over three products of at most 20 terms."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def experts(x_TD, weights_Tk, ids_Tk, gate, up, down, activation="swiglu", kind=None):
    """The operator on stacks of tensors, plain or (kind) packed."""
    into, out_of = [part for part in (gate, up) if part is not None], [down]
    made = [kind(*parts) if kind else Plain(tuple(parts)) for parts in (into, out_of)]
    return moe.experts(x_TD, weights_Tk, ids_Tk, *made, activation)


def make_experts(dtype=torch.float32, seed=1):
    shapes = ((E, WIDTH, D), (E, WIDTH, D), (E, D, WIDTH))
    return [torch.randn(shape, generator=generator(seed + n)).to(dtype) for n, shape in enumerate(shapes)]


def make_rows(num_rows=T, dtype=torch.float32):
    x_TD = torch.randn(num_rows, D, generator=generator(5)).to(dtype)
    logits_TE = torch.randn(num_rows, E, generator=generator(6))
    return x_TD, *route(logits_TE, None, num_experts_per_token=K, score="softmax", normalize=True)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_routing_equals_the_reference(routing, has_bias):
    logits_TE = torch.randn(T, E, generator=generator())
    bias_E = torch.randn(E, generator=generator(1)) if has_bias else None
    weights_Tk, ids_Tk = route(logits_TE, bias_E, num_experts_per_token=K, **routing)
    bias64 = bias_E.double() if has_bias else None
    expected, expected_ids = route_reference(logits_TE.double(), bias64, num_experts_per_token=K, **routing)
    assert weights_Tk.dtype == torch.float32
    assert torch.equal(ids_Tk, expected_ids)
    torch.testing.assert_close(weights_Tk.double(), expected, rtol=1e-6, atol=1e-7)


def test_a_bias_changes_the_choice_but_not_the_weight():
    logits_TE = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    bias_E = torch.tensor([0.0, 0.0, 0.0, 5.0])
    weights, ids = route(logits_TE, bias_E, num_experts_per_token=2, score="sigmoid", normalize=False)
    assert ids.tolist() == [[3, 0]]
    torch.testing.assert_close(weights, torch.tensor([[0.5, 1 / (1 + 2.718281828**-3)]]))


@pytest.mark.parametrize("num_rows", [1, 8, 9, 300])
def test_ties_go_to_the_lower_expert(num_rows):
    x_TE = torch.randn(num_rows, 10, generator=generator()).round()
    expected = [sorted(range(10), key=lambda e: -row[e])[:4] for row in x_TE.tolist()]
    assert top_k(x_TE, 4).tolist() == expected


@settings(max_examples=30)
@given(count=st.integers(1, 300), first=st.integers(0, 299), routing=st.sampled_from(ROUTINGS))
def test_a_token_is_routed_the_same_in_any_company(count, first, routing):
    logits_TE = torch.randn(300, E, generator=generator()).mul(4).round() / 4
    bias_E = torch.randn(E, generator=generator(1)).round()
    whole = route(logits_TE, bias_E, num_experts_per_token=K, **routing)
    part = route(logits_TE[first : first + count], bias_E, num_experts_per_token=K, **routing)
    assert all(torch.equal(mine, other[first : first + count]) for mine, other in zip(part, whole))


def test_groups_that_cannot_hold_the_choice_are_an_error():
    logits_TE = torch.zeros(2, E)
    for groups, kept in ((4, 1), (3, 1)):
        with pytest.raises(ConfigError, match="cannot be chosen"):
            route(
                logits_TE,
                None,
                num_experts_per_token=K,
                score="sigmoid",
                normalize=True,
                num_groups=groups,
                num_groups_kept=kept,
            )


def test_experts_equal_the_reference():
    x_TD, weights_Tk, ids_Tk = make_rows()
    stacked = make_experts()
    doubles = [tensor.double() for tensor in (x_TD, weights_Tk)]
    expected = experts_reference(*doubles, ids_Tk, *(weight.double() for weight in stacked))
    y_TD = experts(x_TD, weights_Tk, ids_Tk, *stacked)
    assert (y_TD - expected).abs().max() <= TOLERANCE * expected.abs().max()
    wide = experts(*doubles, ids_Tk, *(weight.double() for weight in stacked))
    torch.testing.assert_close(wide, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=30)
@given(
    count=st.integers(1, 120),
    first=st.integers(0, 119),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    packed=st.booleans(),
)
def test_a_token_gets_the_same_bits_in_any_company_packed_or_plain(count, first, dtype, packed):
    x_TD, weights_Tk, ids_Tk = make_rows(120, dtype)
    gate, up, down = make_experts(dtype)
    whole = experts(x_TD, weights_Tk, ids_Tk, gate, up, down)
    assert whole.dtype == dtype
    some = slice(first, first + count)
    rows_of = (x_TD[some], weights_Tk[some], ids_Tk[some])
    part = experts(*rows_of, gate, up, down, kind=pack_stack if packed else None)
    assert torch.equal(part, whole[some])


def test_experts_without_tokens_and_calls_without_rows_are_fine():
    x_TD, weights_Tk, _ = make_rows(4)
    ids_Tk = torch.tensor([[0, 2, 5]] * 4)
    stacked = make_experts()
    doubles = [tensor.double() for tensor in (x_TD, weights_Tk)]
    expected = experts_reference(*doubles, ids_Tk, *(weight.double() for weight in stacked))
    torch.testing.assert_close(experts(x_TD, weights_Tk, ids_Tk, *stacked).double(), expected, rtol=1e-4, atol=1e-4)
    assert experts(x_TD[:0], weights_Tk[:0], ids_Tk[:0], *stacked).shape == (0, D)


def test_the_gradient_of_experts_is_right_and_autograd_changes_no_bit():
    ids_Tk = torch.tensor([[0, 2], [2, 1], [0, 1], [2, 0]])
    shapes = ((4, 5), (4, 2), (4, 3, 5), (4, 3, 5), (4, 5, 3))
    inputs = [torch.randn(s, generator=generator(n), dtype=torch.float64) for n, s in enumerate(shapes)]
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def run(x, weights, gate, up, down):
        return experts(x, weights, ids_Tk, gate, up, down)

    assert torch.autograd.gradcheck(run, inputs)
    fp32 = [tensor.detach().float().requires_grad_() for tensor in inputs]
    with torch.no_grad():
        plain = run(*fp32)
    assert torch.equal(run(*fp32), plain)


def test_the_gradient_of_routing_is_right():
    logits_TE = torch.randn(5, E, dtype=torch.float64, generator=generator(), requires_grad=True)
    bias_E = torch.randn(E, dtype=torch.float64, generator=generator(1))
    for routing in ROUTINGS:
        assert torch.autograd.gradcheck(
            lambda logits, routing=routing: route(logits, bias_E, num_experts_per_token=K, **routing)[0], (logits_TE,)
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_gradients_equal_the_reference_in_float64(dtype, tolerance):
    x_TD, weights_Tk, ids_Tk = make_rows(dtype=dtype)
    mine = [tensor.clone().requires_grad_() for tensor in (x_TD, weights_Tk, *make_experts(dtype))]
    theirs = [tensor.detach().double().requires_grad_() for tensor in mine]
    grad_TD = torch.randn(T, D, generator=generator(9)).to(dtype)
    experts(mine[0], mine[1], ids_Tk, *mine[2:]).backward(grad_TD)
    experts_reference(theirs[0], theirs[1], ids_Tk, *theirs[2:]).backward(grad_TD.double())
    for got, expected in zip(mine, theirs):
        assert got.grad.dtype == got.dtype
        assert (got.grad - expected.grad).abs().max() <= tolerance * expected.grad.abs().max()


def test_experts_without_a_gate_equal_the_reference_in_any_company():
    x_TD, weights_Tk, ids_Tk = make_rows(50)
    _, up, down = make_experts()
    leaves = [tensor.clone().requires_grad_() for tensor in (x_TD, weights_Tk, up, down)]
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    whole = experts(leaves[0], leaves[1], ids_Tk, None, *leaves[2:], "relu2")
    expected = experts_reference(exact[0], exact[1], ids_Tk, None, *exact[2:])
    assert (whole - expected).abs().max() <= TOLERANCE * expected.abs().max()
    grad_TD = torch.randn(50, D, generator=generator(9))
    whole.backward(grad_TD)
    expected.backward(grad_TD.double())
    for got, want in zip(leaves, exact):
        assert (got.grad - want.grad).abs().max() <= TOLERANCE * want.grad.abs().max()
    for some in (slice(0, 1), slice(7, 20), slice(0, 50)):
        inputs = (x_TD[some], weights_Tk[some], ids_Tk[some])
        assert torch.equal(experts(*inputs, None, up, down, "relu2"), whole[some])
        assert torch.equal(experts(*inputs, None, up, down, "relu2", kind=pack_stack), whole[some])


def test_a_gate_that_the_activation_does_not_have_is_refused():
    inputs, (gate, up, down) = make_rows(3), make_experts()
    with pytest.raises(ConfigError, match="relu2 with gate"):
        experts(*inputs, gate, up, down, "relu2")
    with pytest.raises(ConfigError, match="swiglu without gate"):
        experts(*inputs, None, up, down)


def test_packed_experts_have_no_gradient():
    x_TD, weights_Tk, ids_Tk = make_rows(3)
    gate, up, down = make_experts()
    if backends.is_portable(x_TD.device):
        pytest.skip("nothing is packed in the portable arithmetic")
    with pytest.raises(BackendUnavailable, match="unpack"):
        experts(x_TD.requires_grad_(), weights_Tk, ids_Tk, gate, up, down, kind=pack_stack)


def test_costs_count_chosen_experts():
    assert cost.flops_per_token(D, E, K, WIDTH) == 2 * D * E + K * 2 * (2 * WIDTH * D + D * WIDTH)
    assert cost.expert_bytes(D, WIDTH, 2) == sum(weight[0].numel() for weight in make_experts()) * 2
    assert cost.flops_per_token(D, E, K, WIDTH, num_matrices=2) == 2 * D * E + K * 4 * WIDTH * D
    assert cost.expert_bytes(D, WIDTH, 2, num_matrices=2) == 4 * D * WIDTH
    assert cost.expected_experts_read(1, E, K) == pytest.approx(K)
    assert K < cost.expected_experts_read(2, E, K) < 2 * K
