"""States in, states out: a document in pieces, cut at multiples of 64, is the whole, with its gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from hyla.errors import ConfigError, RequestError
from hyla.ops.batch import Batch
from hyla.ops.gated_delta import gated_delta
from hyla.ops.gated_delta.reference import gated_delta_reference
from hyla.ops.gla import gla
from hyla.ops.gla.reference import gla_reference
from hyla.ops.kda import kda
from hyla.ops.kda.reference import kda_reference
from hyla.ops.lightning import lightning
from hyla.ops.lightning.reference import lightning_reference
from hyla.ops.linear import elu_plus_one, linear_attention
from hyla.ops.ssd import ssd
from hyla.ops.ssd.reference import ssd_reference

pytestmark = pytest.mark.usefixtures("each_backend")

RELATIVE_TOLERANCE = 1e-5
"""fp32 outputs, states and gradients against float64; measured: below 8e-7."""
HEADS, GROUPS, K, V = 4, 2, 24, 20
SLOPES = (0.0, 0.0123, 0.9, 0.3)
EPS = 1e-2
W = 24
"""Width of linear attention's state: V values, their normaliser, zeros."""


@dataclass(frozen=True)
class Operator:
    name: str
    shapes: tuple[tuple[int, ...], ...]
    """Of the inputs, behind the tokens."""
    call: Callable
    """(inputs, batch=, state=, return_state=)"""
    reference: Callable
    """(inputs, lengths, states) -> outputs and final states."""
    state_shape: tuple[int, ...] = (HEADS, K, V)

    def inputs(self, tokens, *, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        found = [torch.randn(tokens, *shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [x.to(dtype) for x in self.prepare(found)]

    def prepare(self, xs):
        """Inputs in the ranges that the operator takes."""
        if self.name == "linear":
            return [elu_plus_one(xs[0]), elu_plus_one(xs[1]), xs[2]]
        q, k, v, *rest = xs
        if self.name in ("gated_delta", "kda"):
            q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
        # Decays of which some are zero, then betas.
        rest = [-(x.abs() * (x > 0)) if n == 0 else x.sigmoid() for n, x in enumerate(rest)]
        return [q, k, v, *rest]

    def states(self, count, *, seed=9, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(count, *self.state_shape, generator=generator, dtype=torch.float64)
        if self.name == "linear":
            drawn[..., V] = drawn[..., V].abs() * 9.0
            drawn[..., V + 1 :] = 0.0
        return drawn.to(dtype)


def _linear_reference(xs, lengths, states):
    """The reference keeps S and z apart, and starts from nothing: earlier states are added by hand."""
    q, k, v = xs
    ones = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    o, finals, t = [], [], 0
    for n, length in enumerate(lengths):
        state = states[n, ..., : V + 1]
        for _ in range(length):
            state = state + torch.einsum("hk,hv->hkv", k[t], ones[t])
            sums = torch.einsum("hkv,hk->hv", state, q[t])
            o.append(sums[:, :V] / (sums[:, V:] + EPS))
            t += 1
        finals.append(torch.nn.functional.pad(state, (0, W - V - 1)))
    return torch.stack(o), torch.stack(finals)


def _by_state(reference, **fixed):
    return lambda xs, lengths, states: reference(*xs, lengths=lengths, state_NHKV=states, **fixed)


OPERATORS = (
    Operator(
        "gated_delta",
        ((GROUPS, K), (GROUPS, K), (HEADS, V), (HEADS,), (HEADS,)),
        lambda xs, **more: gated_delta(*xs, scale=0.3, **more),
        _by_state(gated_delta_reference, scale=0.3),
    ),
    Operator(
        "kda",
        ((HEADS, K), (HEADS, K), (HEADS, V), (HEADS, K), (HEADS,)),
        lambda xs, **more: kda(*xs, scale=0.3, **more),
        _by_state(kda_reference, scale=0.3),
    ),
    Operator(
        "lightning",
        ((HEADS, K), (HEADS, K), (HEADS, V)),
        lambda xs, **more: lightning(*xs, SLOPES, scale=0.3, **more),
        lambda xs, lengths, states: lightning_reference(*xs, SLOPES, lengths=lengths, scale=0.3, state_NHKV=states),
    ),
    Operator(
        "gla",
        ((HEADS, K), (HEADS, K), (HEADS, V), (HEADS, K)),
        lambda xs, **more: gla(*xs, scale=0.3, **more),
        _by_state(gla_reference, scale=0.3),
    ),
    Operator(
        "ssd",
        ((GROUPS, K), (GROUPS, K), (HEADS, V), (HEADS,)),
        lambda xs, **more: ssd(*xs, **more),
        _by_state(ssd_reference),
    ),
    Operator(
        "linear",
        ((HEADS, K), (HEADS, K), (HEADS, V)),
        lambda xs, **more: linear_attention(*xs, eps=EPS, **more),
        _linear_reference,
        state_shape=(HEADS, K, W),
    ),
)
each = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
LENGTHS = [150, 1, 64, 15]
"""Chunks that close, and sequences that end inside a block of 16, at its end and after one row."""


def relative_error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def later(starts, lengths):
    return Batch(lengths=tuple(lengths), starts=tuple(starts))


@each
def test_outputs_and_final_states_equal_the_float64_recurrence(op):
    xs, states = op.inputs(sum(LENGTHS)), op.states(len(LENGTHS))
    o, final = op.call(xs, batch=later([64, 0, 128, 640], LENGTHS), state=states, return_state=True)
    want, want_final = op.reference([x.double() for x in xs], LENGTHS, states.double())
    assert relative_error(o, want) < RELATIVE_TOLERANCE
    for n in range(len(LENGTHS)):
        assert relative_error(final[n], want_final[n]) < RELATIVE_TOLERANCE, n
    assert not torch.equal(states, final)


@each
def test_gradients_of_initial_and_through_final_states_equal_those_of_the_recurrence(op):
    xs = [x.requires_grad_() for x in op.inputs(sum(LENGTHS))]
    states = op.states(len(LENGTHS)).requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in (*xs, states)]
    want, want_final = op.reference(exact[:-1], LENGTHS, exact[-1])
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (want, want_final)]
    if op.name == "linear":
        weights[1][..., V + 1 :] = 0.0
    wanted = torch.autograd.grad((want * weights[0]).sum() + (want_final * weights[1]).sum(), exact)
    o, final = op.call(xs, batch=later([64] * 4, LENGTHS), state=states, return_state=True)
    loss = (o * weights[0].float()).sum() + (final * weights[1].float()).sum()
    for n, (grad, want_grad) in enumerate(zip(torch.autograd.grad(loss, [*xs, states]), wanted)):
        assert relative_error(grad, want_grad) < RELATIVE_TOLERANCE, n


@each
def test_a_document_in_pieces_has_the_bits_of_the_whole(op):
    tokens, cuts = 300, [128, 64, 108]
    xs = op.inputs(tokens)
    whole, last = op.call(xs, batch=Batch.packed([tokens]), return_state=True)
    parts, state, start = [], None, 0
    for length in cuts:
        rows = [x[start : start + length] for x in xs]
        o, state = op.call(rows, batch=later([start], [length]), state=state, return_state=True)
        parts.append(o)
        start += length
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(state, last)


@each
def test_pieces_of_many_documents_keep_to_their_own_states(op):
    lengths, cut = [130, 200, 90], 64
    xs = op.inputs(sum(lengths))
    whole = op.call(xs, batch=Batch.packed(lengths)).split(lengths)
    documents = [x.split(lengths) for x in xs]
    first = [torch.cat([part[:cut] for part in parts]) for parts in documents]
    rest = [torch.cat([part[cut:] for part in parts]) for parts in documents]
    o, states = op.call(first, batch=Batch.packed([cut] * 3), return_state=True)
    after = op.call(rest, batch=later([cut] * 3, [n - cut for n in lengths]), state=states)
    for n, (head, tail) in enumerate(zip(o.split(cut), after.split([n - cut for n in lengths]))):
        assert torch.equal(torch.cat([head, tail]), whole[n])


@each
def test_states_change_no_bit_of_the_gradients_of_whole_documents(op):
    xs = [x.requires_grad_() for x in op.inputs(200)]
    plain = torch.autograd.grad(op.call(xs, batch=Batch.packed([200])).square().sum(), xs)
    zeros = torch.zeros(1, *op.state_shape)
    o, _ = op.call(xs, batch=Batch.packed([200]), state=zeros, return_state=True)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(o.square().sum(), xs), plain))


@each
def test_what_cannot_be_taken_up_is_said(op):
    xs, states = op.inputs(10), op.states(1)
    with pytest.raises(RequestError, match=r"starts at \(64,\) needs a cache or states"):
        op.call(xs, batch=later([64], [10]))
    with pytest.raises(RequestError, match="multiples of 64"):
        op.call(xs, batch=later([65], [10]), state=states)
    with pytest.raises(ConfigError, match="states are"):
        op.call(xs, batch=later([64], [10]), state=states[:, :-1])
    with pytest.raises(ConfigError, match="a cache or states"):
        op.call(xs, batch=Batch((10,), (0,), (1,), ((),)), cache={}, state=states)
