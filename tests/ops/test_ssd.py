"""State space dual: against the float64 recurrence, and one result whatever way the tokens arrive."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import ConfigError
from hyla.ops.batch import Batch
from hyla.ops.ssd import cache_tensors, ssd
from hyla.ops.ssd import cost as ssd_cost
from hyla.ops.ssd.reference import ssd_reference

pytestmark = pytest.mark.usefixtures("each_backend")

RELATIVE_TOLERANCE = 1e-5
"""fp32 outputs and gradients against float64; measured: below 4e-7."""
LENGTHS = [200, 1, 64, 63, 65]
GROUPS, HEADS, K, V = 2, 6, 24, 20
SIZES = {"num_groups": GROUPS, "num_heads": HEADS, "key_dim": K, "value_dim": V}
TENSORS = cache_tensors(**SIZES)


def make_inputs(tokens, *, seed=0, strength=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = draw(tokens, GROUPS, K), draw(tokens, GROUPS, K), draw(tokens, HEADS, V)
    # Some decays are exactly zero and some full strength, so that sums mix both.
    decay = -strength * draw(tokens, HEADS).abs().clamp_max(1.0) * (draw(tokens, HEADS) > 0)
    return [x.to(dtype) for x in (q, k, v, decay)]


def make_cache(slots):
    return {name: torch.zeros(slots, *shape, dtype=dtype) for name, shape, dtype, _ in TENSORS}


def relative_error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def whole(inputs, lengths):
    return ssd(*inputs, batch=Batch.packed(lengths))


def arrive(inputs, pieces, *, slot=2, cache=None):
    """Outputs of one sequence that arrives in pieces of the given lengths."""
    cache = make_cache(4) if cache is None else cache
    outputs, start = [], 0
    for piece in pieces:
        batch = Batch((piece,), (start,), (slot,), ((),))
        outputs.append(ssd(*(x[start : start + piece] for x in inputs), batch=batch, cache=cache))
        start += piece
    return torch.cat(outputs)


@pytest.mark.parametrize("strength", [0.01, 1.0, 50.0, 1000.0])
def test_outputs_equal_the_float64_recurrence(strength):
    inputs = make_inputs(sum(LENGTHS), strength=strength)
    want, _ = ssd_reference(*[x.double() for x in inputs], lengths=LENGTHS)
    assert relative_error(whole(inputs, LENGTHS), want) < RELATIVE_TOLERANCE


def test_state_after_closed_chunks_equals_the_recurrence():
    inputs, cache = make_inputs(128), make_cache(4)
    arrive(inputs, [100, 28], cache=cache)
    _, states = ssd_reference(*[x.double() for x in inputs], lengths=[128])
    assert relative_error(cache["anchor"][2], states[0]) < RELATIVE_TOLERANCE
    assert cache["anchor"][[0, 1, 3]].count_nonzero() == 0


@pytest.mark.parametrize("strength", [1.0, 50.0])
def test_gradients_equal_those_of_the_float64_recurrence(strength):
    lengths = [50, 140, 64]
    inputs = [x.requires_grad_() for x in make_inputs(sum(lengths), strength=strength)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    want, _ = ssd_reference(*exact, lengths=lengths)
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = torch.autograd.grad((want * weights).sum(), exact)
    got = torch.autograd.grad((whole(inputs, lengths) * weights.float()).sum(), inputs)
    for name, grad, want_grad in zip(("q", "k", "v", "log_decay"), got, wanted):
        assert relative_error(grad, want_grad) < RELATIVE_TOLERANCE, name


def test_gradcheck_over_a_chunk_boundary():
    inputs = [x.requires_grad_() for x in make_inputs(66, dtype=torch.float64)]

    def corner(*xs):
        # A few outputs on both sides of the boundary keep the check small.
        return whole(xs, [66])[[1, 17, 63, 64, 65], :, ::13]

    assert torch.autograd.gradcheck(corner, inputs, fast_mode=True)


@settings(max_examples=15)
@given(data=st.data())
def test_pieces_of_any_size_give_the_bits_of_the_whole(data):
    tokens = data.draw(st.integers(1, 180))
    pieces, left = [], tokens
    while left:
        pieces.append(data.draw(st.integers(1, min(left, data.draw(st.sampled_from([1, 3, 20, 100]))))))
        left -= pieces[-1]
    inputs = make_inputs(tokens, strength=8.0)
    assert torch.equal(arrive(inputs, pieces), whole(inputs, [tokens]))


@pytest.mark.parametrize("strength", [0.05, 8.0])
def test_one_by_one_gives_the_bits_of_the_whole(strength):
    inputs = make_inputs(150, strength=strength)
    assert torch.equal(arrive(inputs, [1] * 150), whole(inputs, [150]))


def test_stored_rows_never_change_and_the_anchor_changes_when_a_chunk_closes():
    inputs, cache = make_inputs(70), make_cache(4)
    before = None
    for t in range(70):
        batch = Batch((1,), (t,), (2,), ((),))
        ssd(*(x[t : t + 1] for x in inputs), batch=batch, cache=cache)
        row = t % 64
        if row:
            assert torch.equal(cache["v"][2, :, :row], before["v"][2, :, :row])
            assert torch.equal(cache["k_t"][2, :, :, :row], before["k_t"][2, :, :, :row])
            assert torch.equal(cache["decay_sum"][2, :, :row], before["decay_sum"][2, :, :row])
        if t and row != 63:
            assert torch.equal(cache["anchor"], before["anchor"])
        before = {name: tensor.clone() for name, tensor in cache.items()}
    assert cache["anchor"][2].count_nonzero() > 0


def test_mixed_batches_in_any_slots_give_the_bits_of_packed_sequences():
    inputs = make_inputs(sum(LENGTHS))
    want = whole(inputs, LENGTHS)
    sequences = list(zip(*[x.split(LENGTHS) for x in inputs]))
    cache, slots, done = make_cache(9), [5, 2, 8, 1, 4], [0] * 5
    got, order = [[] for _ in LENGTHS], random.Random(7)
    while any(done[n] < LENGTHS[n] for n in range(5)):
        active = [n for n in range(5) if done[n] < LENGTHS[n]]
        order.shuffle(active)
        counts = [min(order.choice([1, 1, 1, 2, 17, 70]), LENGTHS[n] - done[n]) for n in active]
        spans = list(zip(active, counts))
        rows = [torch.cat([sequences[n][i][done[n] : done[n] + count] for n, count in spans]) for i in range(4)]
        starts, places = tuple(done[n] for n in active), tuple(slots[n] for n in active)
        out = ssd(*rows, batch=Batch(tuple(counts), starts, places, tuple(() for _ in active)), cache=cache)
        for n, count, part in zip(active, counts, out.split(counts)):
            got[n].append(part)
            done[n] += count
    assert torch.equal(torch.cat([torch.cat(parts) for parts in got]), want)


def test_rows_depend_neither_on_autograd_nor_on_the_stretches(monkeypatch):
    inputs = make_inputs(sum(LENGTHS))
    with_grad = [x.clone().requires_grad_() for x in inputs]
    want = whole(with_grad, LENGTHS)
    grads = torch.autograd.grad(want.square().sum(), with_grad)
    with torch.inference_mode():
        assert torch.equal(want, whole(inputs, LENGTHS))
    monkeypatch.setattr("hyla.ops.chunks.delta_chain.GROUP_ELEMENTS", 1)
    again = whole(with_grad, LENGTHS)
    assert torch.equal(again, want)
    for one, other in zip(torch.autograd.grad(again.square().sum(), with_grad), grads):
        assert relative_error(one, other.double()) < RELATIVE_TOLERANCE


def test_a_one_ulp_change_of_one_row_is_seen():
    inputs = make_inputs(70)
    changed = [x.clone() for x in inputs]
    changed[2][3] = torch.nextafter(changed[2][3], torch.tensor(9.0))
    assert not torch.equal(whole(changed, [70])[3], whole(inputs, [70])[3])


def test_shapes_that_do_not_fit_are_named():
    q, k, v, decay = make_inputs(10)
    with pytest.raises(ConfigError, match="shapes do not fit"):
        ssd(q, k[:, :, :-1], v, decay, batch=Batch.packed([10]))
    with pytest.raises(ConfigError, match="shapes do not fit"):
        ssd(q, k, v[:, :5], decay[:, :5], batch=Batch.packed([10]))
    with pytest.raises(ConfigError, match="10 rows for a batch of 9"):
        ssd(q, k, v, decay, batch=Batch.packed([9]))


def test_the_cost_formulas_count_the_declared_tensors():
    sizes = {name: torch.Size(shape).numel() * dtype.itemsize for name, shape, dtype, _ in TENSORS}
    assert ssd_cost.state_bytes(num_heads=HEADS, key_dim=K, value_dim=V) == sizes.pop("anchor")
    assert ssd_cost.open_bytes(**SIZES) == sum(sizes.values())
    assert ssd_cost.decode_bytes_per_token(**SIZES) > sum(sizes.values())
    assert ssd_cost.flops_per_token(**SIZES) == 2 * (2 * 64 * 24 + 6 * (2 * 24 * 20 + 64 * 20))
