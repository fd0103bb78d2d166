"""Gated linear attention: against its recurrence in float64, and the same bits however the rows arrive."""

import pytest
import torch

from hyla.errors import ConfigError
from hyla.ops.batch import Batch
from hyla.ops.gla import cache_tensors, gla
from hyla.ops.gla.reference import gla_reference

H, K, V = 3, 12, 20
SCALE = K**-0.5
pytestmark = pytest.mark.usefixtures("each_backend")

FP32_TOLERANCE = 2e-6
"""Of fp32 outputs, relative to the largest (float64: 1e-12)."""


def inputs(tokens, strength=1.0, dtype=torch.float32, seed=0):
    """q, k, v and log decays, some of them exactly zero."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    decay = -strength * draw(tokens, H, K).abs() * (draw(tokens, H, K) > -0.5)
    return [x.to(dtype) for x in (draw(tokens, H, K), draw(tokens, H, K), draw(tokens, H, V), decay)]


def new_cache(num_slots=6):
    tensors = cache_tensors(num_heads=H, key_dim=K, value_dim=V)
    return {name: torch.zeros(num_slots, *shape, dtype=dtype) for name, shape, dtype, _ in tensors}


def in_pieces(data, pieces, slot=1, cache=None):
    """Outputs of one sequence that arrives in pieces."""
    cache, found, start = cache or new_cache(), [], 0
    for length in pieces:
        rows = [x[start : start + length] for x in data]
        found.append(gla(*rows, batch=Batch((length,), (start,), (slot,), ((),)), cache=cache, scale=SCALE))
        start += length
    return torch.cat(found), cache


@pytest.mark.parametrize("lengths", [(1,), (63, 1), (64, 16, 17), (200, 5, 129)])
@pytest.mark.parametrize("strength", [0.05, 1.0, 50.0])
def test_outputs_and_states_are_those_of_the_recurrence(lengths, strength):
    data = inputs(sum(lengths), strength, torch.float64)
    expected, states = gla_reference(*data, lengths=lengths, scale=SCALE)
    batch = Batch.packed(lengths)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, FP32_TOLERANCE)):
        found, final = gla(*(x.to(dtype) for x in data), batch=batch, scale=SCALE, return_state=True)
        assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()
        assert (final.double() - states).abs().max() <= tolerance * states.abs().max()


@pytest.mark.parametrize("lengths", [(7,), (70, 20), (130, 64, 3)])
def test_gradients_are_those_of_the_recurrence_through_states_too(lengths):
    data = inputs(sum(lengths), 0.7, torch.float64)
    state = torch.randn(len(lengths), H, K, V, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (*data, state)]
    weights = [
        torch.randn(shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        for shape in ((sum(lengths), H, V), state.shape)
    ]
    expected = gla_reference(*data, lengths=lengths, scale=SCALE, state_NHKV=state)
    wanted = torch.autograd.grad(sum((x * w).sum() for x, w in zip(expected, weights)), leaves)
    found = gla(*data, batch=Batch.packed(lengths), scale=SCALE, state=state, return_state=True)
    got = torch.autograd.grad(sum((x * w).sum() for x, w in zip(found, weights)), leaves)
    for one, other in zip(got, wanted):
        assert (one - other).abs().max() <= 1e-11 * other.abs().max()


@pytest.mark.parametrize(
    "pieces", [(200,), (1,) * 200, (63, 2, 62, 73), (64, 64, 72), (17, 100, 1, 1, 1, 80), (130, *[1] * 70)]
)
@pytest.mark.parametrize("strength", [0.3, 50.0])
def test_a_row_has_the_same_bits_however_it_arrives(pieces, strength):
    data = inputs(200, strength)
    whole = gla(*data, batch=Batch.packed((200,)), scale=SCALE)
    found, cache = in_pieces(data, pieces)
    assert torch.equal(found, whole)
    _, other = in_pieces(data, (200,))
    assert torch.equal(cache["anchor"][1], other["anchor"][1])


def test_a_row_has_the_same_bits_in_any_batch():
    lengths = (70, 1, 129, 40)
    data = inputs(sum(lengths))
    packed = gla(*data, batch=Batch.packed(lengths), scale=SCALE)
    alone = [
        gla(*part, batch=Batch.packed((len(part[0]),)), scale=SCALE) for part in zip(*(x.split(lengths) for x in data))
    ]
    assert torch.equal(packed, torch.cat(alone))
    # Decoding together: one row of each, behind contexts of different lengths.
    cache = new_cache()
    last = []
    for slot, part in enumerate(zip(*(x.split(lengths) for x in data)), 1):
        if lengths[slot - 1] > 1:
            in_pieces([x[:-1] for x in part], (lengths[slot - 1] - 1,), slot, cache)
        last.append([x[-1:] for x in part])
    rows = [torch.cat(parts) for parts in zip(*last)]
    starts = tuple(length - 1 for length in lengths)
    found = gla(*rows, batch=Batch((1,) * 4, starts, (1, 2, 3, 4), ((),) * 4), cache=cache, scale=SCALE)
    assert torch.equal(found, torch.cat([part[-1:] for part in packed.split(lengths)]))


def test_open_rows_can_be_taken_back_inside_a_chunk():
    data, others = inputs(100), inputs(100, seed=1)
    expected, _ = in_pieces(data, (70, *[1] * 30))
    _, cache = in_pieces(data, (70,))
    rejected = [x[70:95] for x in others]
    gla(*rejected, batch=Batch((25,), (70,), (1,), ((),)), cache=cache, scale=SCALE)
    again = gla(*(x[70:] for x in data), batch=Batch((30,), (70,), (1,), ((),)), cache=cache, scale=SCALE)
    assert torch.equal(again, expected[70:])


def test_a_document_cut_between_chunks_has_the_bits_of_the_whole():
    data = inputs(200)
    whole, final = gla(*data, batch=Batch.packed((200,)), scale=SCALE, return_state=True)
    first, state = gla(*(x[:128] for x in data), batch=Batch.packed((128,)), scale=SCALE, return_state=True)
    second, last = gla(*(x[128:] for x in data), batch=Batch.packed((72,)), scale=SCALE, state=state, return_state=True)
    assert torch.equal(torch.cat([first, second]), whole) and torch.equal(last, final)


def test_shapes_that_do_not_fit_are_refused():
    q, k, v, decay = inputs(5)
    with pytest.raises(ConfigError, match="log_decay"):
        gla(q, k, v, decay[:, :, 1:], batch=Batch.packed((5,)), scale=SCALE)
    with pytest.raises(ConfigError, match="5 rows for a batch of 4"):
        gla(q, k, v, decay, batch=Batch.packed((4,)), scale=SCALE)
