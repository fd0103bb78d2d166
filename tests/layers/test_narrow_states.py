"""States that are rounded at every multiple of 64: what they are, and that every way of computing rounds alike."""

import pytest
import torch
from flagged import GATED, GLA, KDA, LIGHTNING, LINEAR, MAMBA2, changed

from hyla.layers.carry import Carry
from hyla.layers.narrow_states import narrowed, pieces_of
from hyla.layers.standalone import MixerCache
from hyla.models.build import build_module
from hyla.ops.batch import Batch
from hyla.ops.kda import kda

pytestmark = pytest.mark.usefixtures("each_backend")

D, LENGTHS = 20, (150, 64, 71)
NARROW = {
    config.kind: changed(config, state_dtype="bfloat16") for config in (KDA, GATED, GLA, LIGHTNING, LINEAR, MAMBA2)
}
each = pytest.mark.parametrize("kind", NARROW)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind, **fields):
    module = build_module(changed(NARROW[kind], **fields), D)
    module.initialize(0.3, torch.Generator().manual_seed(1))
    return module


@each
@torch.no_grad()
def test_states_between_chunks_have_bf16_numbers_and_change_later_rows_alone(kind):
    x, batch = drawn(150, D), Batch.packed([150])
    module, wide = made(kind), made(kind, state_dtype="float32")
    rounded, plain = module(x, batch, None), wide(x, batch, None)
    assert torch.equal(rounded[:64], plain[:64]) and not torch.equal(rounded[64:], plain[64:])
    assert (rounded - plain).abs().max() < 0.02 * plain.abs().max()
    cache = MixerCache(module.cache_spec(), 1, x.device)
    module(x[:128], cache.batch([128]), cache.tensors)
    anchor = cache.tensors["anchor"][1]
    assert anchor.abs().max() > 0 and torch.equal(anchor, narrowed(anchor, torch.bfloat16))
    state = module.inside(x[:128], Batch.packed([128])).state_NHKV
    assert torch.equal(state, narrowed(state, torch.bfloat16))


@each
def test_rounded_rows_have_the_same_bits_however_they_arrive(kind):
    module, x = made(kind), drawn(sum(LENGTHS), D)
    trained = module(x.clone().requires_grad_(), Batch.packed(LENGTHS), None)
    cache, done, parts = MixerCache(module.cache_spec(), 3, x.device), [0] * 3, ([], [], [])
    with torch.no_grad():
        assert torch.equal(module(x, Batch.packed(LENGTHS), None), trained)
        for counts in ((3, 0, 71), (60, 64, 0), (1, 0, 0), (1, 0, 0), (85, 0, 0)):
            begins = [sum(LENGTHS[:n]) + done[n] for n in range(3)]
            rows = torch.cat([x[begin : begin + count] for begin, count in zip(begins, counts)])
            out = module(rows, cache.batch(counts), cache.tensors)
            for kept, part in zip(parts, out.split(counts)):
                kept.append(part)
            cache.advance(counts)
            done = [held + count for held, count in zip(done, counts)]
    assert tuple(done) == LENGTHS
    assert torch.equal(torch.cat([part for kept in parts for part in kept]), trained)


@each
def test_gradients_through_roundings_are_those_of_the_document_alone(kind):
    x, weights = drawn(sum(LENGTHS), D), drawn(sum(LENGTHS), D, seed=3)

    def gradient(module, first, lengths):
        rows = slice(first, first + sum(lengths))
        leaf = x[rows].clone().requires_grad_()
        (module(leaf, Batch.packed(lengths), None) * weights[rows]).sum().backward()
        return leaf.grad

    together, plain = gradient(made(kind), 0, LENGTHS), gradient(made(kind, state_dtype="float32"), 0, LENGTHS)
    assert torch.equal(gradient(made(kind), 0, LENGTHS[:1]), together[:150])
    assert torch.equal(gradient(made(kind), 150, LENGTHS[1:]), together[150:])
    # The gradient goes through a rounding as if it were none, so it is near the one without.
    assert not torch.equal(together, plain) and (together - plain).abs().max() < 0.05 * plain.abs().max()


@each
def test_a_document_in_pieces_has_the_bits_of_the_whole(kind):
    module, x = made(kind), drawn(150, D)
    whole, carry, parts = module(x, Batch.packed([150]), None), Carry(), []
    for first, last in ((0, 128), (128, 150)):
        parts.append(module(x[first:last], Batch((last - first,), (first,)), carry))
        carry = carry.next([0])
    assert torch.equal(torch.cat(parts), whole)


def test_without_a_rounding_the_pieces_have_the_bits_of_one_call():
    """What is cut and handed on is the operator's own state."""
    from hyla.layers.narrow_states import in_chunks

    q, k, v = (drawn(sum(LENGTHS), 2, width, seed=n) for n, width in enumerate((8, 8, 6)))
    operands = (q / 8, k / 8, v, -drawn(sum(LENGTHS), 2, 8, seed=4).abs(), drawn(sum(LENGTHS), 2, seed=5).sigmoid())
    batch = Batch.packed(LENGTHS)
    found = in_chunks(kda, *operands, dtype=torch.float32, batch=batch, return_state=True, scale=1.0)
    assert all(map(torch.equal, found, kda(*operands, batch=batch, return_state=True, scale=1.0)))


def test_pieces_end_where_chunks_do():
    pieces = pieces_of(Batch((150, 3, 64), (10, 60, 128), (1, 2, 3), ((), (), ())))
    assert [(piece.lengths, piece.starts, piece.slots) for piece in pieces.batches] == [
        ((54, 3, 64), (10, 60, 128), (1, 2, 3)),
        ((64,), (64,), (1,)),
        ((32,), (128,), (1,)),
    ]
    assert pieces.last_states.tolist() == [4, 1, 2]
    x = torch.arange(217)
    parts = pieces.split(x)
    assert parts[0].tolist() == [*range(54), *range(150, 217)] and torch.equal(pieces.joined(list(parts)), x)
    one = Batch((5, 1), (3, 70), (1, 2), ((), ()))
    assert pieces_of(one).batches == (one,) and pieces_of(one).order_T is None
