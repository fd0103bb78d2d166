"""Lightning attention: against the float64 recurrence, and one result whatever way the tokens arrive."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import ConfigError
from hyla.ops.batch import Batch
from hyla.ops.chunks.constant_decay import MASKED, decay_table
from hyla.ops.lightning import cache_tensors, cost, lightning
from hyla.ops.lightning.reference import lightning_reference

pytestmark = pytest.mark.usefixtures("each_backend")

RELATIVE_TOLERANCE = 1e-5
"""fp32 outputs and gradients against float64; measured: below 5e-7."""
HEADS, KEY_DIM, VALUE_DIM = 3, 24, 40
SLOPES = (0.0, 0.0123, 0.9)
"""No decay, a slow one and one that forgets within a chunk."""
LENGTHS = [200, 1, 64, 63, 65]
SCALE = 0.3


def inputs(tokens, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(tokens, HEADS, dim) for dim in (KEY_DIM, KEY_DIM, VALUE_DIM)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def new_cache(slots):
    tensors = cache_tensors(num_heads=HEADS, key_dim=KEY_DIM, value_dim=VALUE_DIM)
    return {name: torch.zeros(slots, *shape, dtype=dtype) for name, shape, dtype, _ in tensors}


def whole(xs, lengths, slopes=SLOPES):
    return lightning(*xs, slopes, batch=Batch.packed(lengths), scale=SCALE)


def arrive(xs, pieces, *, slot=2, cache=None, start=0):
    """Outputs of one sequence that arrives in pieces of the given lengths."""
    cache = new_cache(4) if cache is None else cache
    outputs = []
    for piece in pieces:
        batch = Batch((piece,), (start,), (slot,), ((),))
        outputs.append(
            lightning(*(x[start : start + piece] for x in xs), SLOPES, batch=batch, cache=cache, scale=SCALE)
        )
        start += piece
    return torch.cat(outputs)


def relative_error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def test_outputs_equal_the_float64_recurrence():
    xs = inputs(sum(LENGTHS))
    want, _ = lightning_reference(*[x.double() for x in xs], SLOPES, lengths=LENGTHS, scale=SCALE)
    assert relative_error(whole(xs, LENGTHS), want) < RELATIVE_TOLERANCE


def test_state_after_closed_chunks_equals_the_recurrence():
    xs = inputs(128)
    _, states = lightning_reference(*[x.double() for x in xs], SLOPES, lengths=[128], scale=SCALE)
    for pieces in ([100, 28], [127, 1]):
        cache = new_cache(4)
        arrive(xs, pieces, cache=cache)
        assert relative_error(cache["anchor"][2], states[0]) < RELATIVE_TOLERANCE
        assert cache["anchor"][[0, 1, 3]].count_nonzero() == 0


def test_gradients_equal_those_of_the_float64_recurrence():
    lengths = [150, 50]
    xs = [x.requires_grad_() for x in inputs(200)]
    exact = [x.detach().double().requires_grad_() for x in xs]
    want, _ = lightning_reference(*exact, SLOPES, lengths=lengths, scale=SCALE)
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = torch.autograd.grad((want * weights).sum(), exact)
    got = torch.autograd.grad((whole(xs, lengths) * weights.float()).sum(), xs)
    for name, grad, want_grad in zip("qkv", got, wanted):
        assert relative_error(grad, want_grad) < RELATIVE_TOLERANCE, name


def test_gradcheck_over_a_chunk_boundary():
    xs = [x.requires_grad_() for x in inputs(66, dtype=torch.float64)]

    def corner(*rows):
        # A few outputs on both sides of the boundary keep the check small.
        return whole(rows, [66])[[1, 17, 63, 64, 65], :, ::13]

    assert torch.autograd.gradcheck(corner, xs, fast_mode=True)


@settings(max_examples=15)
@given(data=st.data())
def test_pieces_of_any_size_give_the_bits_of_the_whole(data):
    tokens = data.draw(st.integers(1, 180))
    pieces, left = [], tokens
    while left:
        pieces.append(data.draw(st.integers(1, min(left, data.draw(st.sampled_from([1, 3, 20, 100]))))))
        left -= pieces[-1]
    xs = inputs(tokens)
    assert torch.equal(arrive(xs, pieces), whole(xs, [tokens]))


def test_one_by_one_gives_the_bits_of_the_whole():
    xs = inputs(150)
    assert torch.equal(arrive(xs, [1] * 150), whole(xs, [150]))


def test_mixed_batches_in_any_slots_give_the_bits_of_packed_sequences():
    xs = inputs(sum(LENGTHS))
    want = whole(xs, LENGTHS)
    sequences = list(zip(*[x.split(LENGTHS) for x in xs]))
    cache, slots, done = new_cache(9), [5, 2, 8, 1, 4], [0] * 5
    got, order = [[] for _ in LENGTHS], random.Random(7)
    while any(done[n] < LENGTHS[n] for n in range(5)):
        active = [n for n in range(5) if done[n] < LENGTHS[n]]
        order.shuffle(active)
        counts = [min(order.choice([1, 1, 1, 2, 17, 70]), LENGTHS[n] - done[n]) for n in active]
        rows = [
            torch.cat([sequences[n][i][done[n] : done[n] + count] for n, count in zip(active, counts)])
            for i in range(3)
        ]
        starts, places = tuple(done[n] for n in active), tuple(slots[n] for n in active)
        batch = Batch(tuple(counts), starts, places, tuple(() for _ in active))
        out = lightning(*rows, SLOPES, batch=batch, cache=cache, scale=SCALE)
        for n, count, part in zip(active, counts, out.split(counts)):
            got[n].append(part)
            done[n] += count
    assert torch.equal(torch.cat([torch.cat(parts) for parts in got]), want)


@pytest.mark.parametrize("length", [64, 65, 70, 83])
def test_open_rows_go_back_to_any_length_of_their_chunk(length):
    xs, others = inputs(100), inputs(100, seed=1)
    drafts = [torch.cat([x[:length], other[length:]]) for x, other in zip(xs, others)]
    cache = new_cache(4)
    arrive(drafts, [60, 38, 1], cache=cache)
    after = arrive(xs, [1, 100 - length - 1], cache=cache, start=length)
    assert torch.equal(after, whole(xs, [100])[length:])


def test_rows_do_not_depend_on_autograd_or_on_who_made_the_decays_first():
    decay_table.cache_clear()
    xs = inputs(130)
    with torch.inference_mode():
        without = whole(xs, [130])
    with_grad = whole([x.clone().requires_grad_() for x in xs], [130])
    assert torch.equal(with_grad.detach(), without)
    with_grad.sum().backward()


def test_many_items_are_walked_in_stretches_with_the_same_bits_and_gradients(monkeypatch):
    xs = [x.requires_grad_() for x in inputs(sum(LENGTHS))]
    want = whole(xs, LENGTHS)
    wanted = torch.autograd.grad(want.square().sum(), xs)
    monkeypatch.setattr("hyla.ops.chunks.delta_chain.GROUP_ELEMENTS", 1)
    got = whole(xs, LENGTHS)
    assert torch.equal(got, want)
    for grad, want_grad in zip(torch.autograd.grad(got.square().sum(), xs), wanted):
        assert relative_error(grad, want_grad.double()) < RELATIVE_TOLERANCE


def test_a_one_ulp_change_of_one_row_is_seen():
    xs = inputs(70)
    changed = [x.clone() for x in xs]
    changed[2][3] = torch.nextafter(changed[2][3], torch.tensor(9.0))
    assert not torch.equal(whole(changed, [70])[3], whole(xs, [70])[3])


def test_the_current_token_is_not_decayed_and_a_later_one_is_masked():
    table = decay_table(SLOPES, torch.float32, torch.device("cpu"))
    assert table[:, 0].tolist() == [1.0, 1.0, 1.0]
    assert table[:, MASKED].tolist() == [0.0, 0.0, 0.0]
    xs = inputs(1)
    want = SCALE * (xs[0].double() * xs[1].double()).sum(-1, keepdim=True) * xs[2].double()
    assert relative_error(whole(xs, [1]), want) < RELATIVE_TOLERANCE


def test_shapes_that_do_not_fit_are_named():
    q, k, v = inputs(10)
    with pytest.raises(ConfigError, match="shapes do not fit"):
        whole([q, k[:, :, :-1], v], [10])
    with pytest.raises(ConfigError, match="2 slopes"):
        whole([q, k, v], [10], slopes=(0.1, 0.2))
    with pytest.raises(ConfigError, match="10 rows for a batch of 9"):
        whole([q, k, v], [9])


def test_costs_are_those_of_the_cache_tensors_and_of_the_published_state():
    sizes = {"num_heads": 64, "key_dim": 128, "value_dim": 128}
    tensors = {name: torch.Size(shape).numel() * dtype.itemsize for name, shape, dtype, _ in cache_tensors(**sizes)}
    assert cost.state_bytes(**sizes) == tensors["anchor"]
    assert cost.open_bytes(**sizes) == tensors["k_t"] + tensors["v"]
    assert 70 * cost.state_bytes(**sizes) == 293_601_280  # MiniMax-Text-01: 293.6 MB
    assert cost.flops_per_token(**sizes) == 64 * 2 * (64 * 256 + 2 * 128 * 128)
    assert cost.recurrent_flops_per_token(**sizes) == 64 * 4 * 128 * 128
    assert cost.decode_bytes_per_token(**sizes) > cost.state_bytes(**sizes)
