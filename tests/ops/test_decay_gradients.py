"""Gradients of the operators without a solve: close to float64, and a document's own whatever stands beside it."""

from functools import partial

import pytest
import torch
from conftest import CPU_BACKENDS

from hyla.ops import backends
from hyla.ops.batch import Batch
from hyla.ops.gla import gla
from hyla.ops.lightning import lightning
from hyla.ops.linear import linear_attention
from hyla.ops.linear.cost import row_width
from hyla.ops.ssd import ssd

pytestmark = pytest.mark.usefixtures("each_backend")

RELATIVE_TOLERANCE = 4e-6
"""fp32 gradients against float64, relative to the largest of a tensor; measured: below 9e-7, and 1.9e-6 for linear
attention, where the gradient of a first row's query is a difference."""
KINDS = ("lightning", "linear", "ssd", "gla")
SIZES = ((3, 3, 24, 20), (2, 6, 17, 36), (1, 4, 33, 9), (1, 1, 128, 72), (2, 2, 16, 150))
"""Groups of keys, heads, key and value dimension; only the state space dual has fewer groups than heads."""
BESIDE = ((20, (), (5,)), (30, (64, 1, 200), ()), (40, (3,), (300, 77)), (50, (130,), (130, 130)))
"""A seed, and the lengths of documents before and after one's own."""
NAMES = ("q", "k", "v", "decays or states", "states")
SLOPES = (0.0, 0.0123, 0.9, 0.3, 0.05, 0.1, 0.2, 0.02)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sizes_of(kind, sizes):
    groups, heads, key_dim, value_dim = sizes
    return (groups if kind == "ssd" else heads), heads, key_dim, value_dim


def draw_inputs(kind, tokens, sizes, *, strength=1.0, seed=0):
    """q, k, v and the decays in float64; some decays are exactly zero."""
    groups, heads, key_dim, value_dim = sizes_of(kind, sizes)
    q, k = draw(tokens, groups, key_dim, seed=seed), draw(tokens, groups, key_dim, seed=seed + 1)
    if kind == "linear":
        q, k = q.abs(), k.abs()
    shape = {"ssd": (tokens, heads), "gla": (tokens, heads, key_dim)}.get(kind)
    decays = [-strength * draw(*shape, seed=seed + 3).abs() * (draw(*shape, seed=seed + 4) > -0.5)] if shape else []
    return [q, k, draw(tokens, heads, value_dim, seed=seed + 2), *decays]


def operator(kind, inputs):
    heads = inputs[2].shape[1]
    return {
        "lightning": partial(lightning, slopes=SLOPES[:heads], scale=0.3),
        "linear": partial(linear_attention, eps=30.0),  # with a tiny one, a first row has next to no gradient of q
        "ssd": ssd,
        "gla": partial(gla, scale=0.3),
    }[kind]


def gradients(kind, inputs, lengths, weights, dtype=torch.float32, states=None):
    """Of q, k, v, decays and, where states and weights of the last ones are given, of the states."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    call = partial(operator(kind, inputs), *leaves, batch=Batch.packed(lengths))
    if states is None:
        return torch.autograd.grad((call() * weights.to(dtype)).sum(), leaves)
    first, last_weights = (x.to(dtype) for x in states)
    first = first.requires_grad_()
    o_THV, last = call(state=first, return_state=True)
    loss = (o_THV * weights.to(dtype)).sum() + (last * last_weights).sum()
    return torch.autograd.grad(loss, [*leaves, first])


def draw_states(kind, count, sizes):
    """States from before the first rows, and what the loss makes of the last ones."""
    _, heads, key_dim, value_dim = sizes_of(kind, sizes)
    shape = (count, heads, key_dim, row_width(value_dim) if kind == "linear" else value_dim)
    return draw(*shape, seed=10).abs(), draw(*shape, seed=11)


def check_close(got, wanted):
    for name, grad, want in zip(NAMES, got, wanted):
        assert (grad.double() - want).abs().max() <= RELATIVE_TOLERANCE * want.abs().max(), name


@pytest.mark.parametrize("with_states", [False, True], ids=["outputs", "states too"])
@pytest.mark.parametrize("lengths", [(1,), (64,), (1, 65, 17, 130), (200, 63)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_in_float64(kind, lengths, with_states):
    for sizes in SIZES:
        inputs = draw_inputs(kind, sum(lengths), sizes)
        weights = draw(*inputs[2].shape, seed=7)
        states = draw_states(kind, len(lengths), sizes) if with_states else None
        exact = gradients(kind, inputs, lengths, weights, torch.float64, states)
        check_close(gradients(kind, inputs, lengths, weights, states=states), exact)


@pytest.mark.parametrize("strength", [0.02, 8.0, 60.0, 1000.0])
@pytest.mark.parametrize("kind", ["ssd", "gla"])
def test_gradients_of_weak_and_strong_decays_equal_those_in_float64(kind, strength):
    inputs = draw_inputs(kind, 150, SIZES[0], strength=strength)
    weights = draw(*inputs[2].shape, seed=7)
    exact = gradients(kind, inputs, (150,), weights, torch.float64)
    check_close(gradients(kind, inputs, (150,), weights), exact)


@pytest.mark.parametrize("kind", ["ssd", "gla"])
def test_a_decay_that_nothing_survives_has_a_gradient_as_small_as_what_survives(kind):
    """No difference of large sums: what did not decay between two rows leaves nothing behind in between."""
    inputs = draw_inputs(kind, 100, SIZES[0])
    inputs[3] = -12.0 - draw(*inputs[3].shape, seed=9).abs()
    weights = draw(*inputs[2].shape, seed=7)
    (exact,) = gradients(kind, inputs, (100,), weights, torch.float64)[3:]
    (got,) = gradients(kind, inputs, (100,), weights)[3:]
    assert exact.abs().max() < 1e-3
    assert (got.double() - exact).abs().max() <= RELATIVE_TOLERANCE * exact.abs().max()


@pytest.mark.parametrize("sizes", [SIZES[0], (3, 3, 7, 5)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_document_s_gradients_keep_their_bits_whatever_stands_beside_it(kind, sizes):
    """Narrow heads too, whose products libraries compute by routines that look at the number of items."""
    own = 130
    inputs = draw_inputs(kind, own, sizes)
    weights, states = draw(*inputs[2].shape, seed=7), draw_states(kind, 1, sizes)
    alone = gradients(kind, inputs, (own,), weights, states=states)
    for seed, before, after in (
        (20, (), (5,)),
        (30, (64, 1, 200), ()),
        (40, (3,), (300, 77)),
        (50, (130,), (130, 130)),
    ):
        count = len(before) + 1 + len(after)
        others = draw_inputs(kind, sum(before) + sum(after), sizes, strength=seed / 10, seed=seed)
        around = draw_states(kind, count, sizes)
        packed, first = [], sum(before)
        for x, other in zip((*inputs, weights), (*others, draw(*others[2].shape, seed=seed)), strict=True):
            packed.append(torch.cat([other[:first], x, other[first:]]))
        together = []
        for mine, other in zip(states, around, strict=True):
            together.append(torch.cat([other[: len(before)] + 1, mine, other[len(before) + 1 :]]))
        *rows, grad_weights = packed
        got = gradients(kind, rows, (*before, own, *after), grad_weights, states=together)
        for name, grad, want in zip(NAMES, got[:-1], alone[:-1]):
            assert torch.equal(grad[first : first + own], want), (name, before, after)
        assert torch.equal(got[-1][len(before)], alone[-1][0]), (before, after)


needs_kernels = pytest.mark.skipif("native" not in CPU_BACKENDS, reason="no C compiler on this machine")


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_kernel_keep_their_bits_for_every_number_of_threads(kind, each_backend):
    backends.use("native")
    sizes, lengths = SIZES[1], (130, 1, 64, 70, 3)
    inputs = draw_inputs(kind, sum(lengths), sizes)
    weights, states = draw(*inputs[2].shape, seed=7), draw_states(kind, len(lengths), sizes)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(gradients(kind, inputs, lengths, weights, states=states))
    finally:
        torch.set_num_threads(threads)
        backends.use(each_backend)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_dense_and_gradients_that_are_expanded_change_nothing(kind):
    sizes, lengths = SIZES[0], (70, 3)
    dense = [x.float().requires_grad_() for x in draw_inputs(kind, sum(lengths), sizes)]
    wide = [torch.nn.functional.pad(x.detach(), (0, 5))[..., :-5].requires_grad_() for x in dense]
    found = []
    for leaves in (dense, wide):
        o_THV = operator(kind, leaves)(*leaves, batch=Batch.packed(lengths))
        found.append(torch.autograd.grad(o_THV.sum(), leaves))
    assert all(map(torch.equal, *found))
