"""Linear attention: against the float64 recurrence, and one result whatever way the tokens arrive."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import ConfigError
from hyla.ops.batch import Batch
from hyla.ops.linear import cache_tensors, cost, elu_plus_one, linear_attention
from hyla.ops.linear.reference import linear_attention_reference

pytestmark = pytest.mark.usefixtures("each_backend")

RELATIVE_TOLERANCE = 1e-6
"""fp32 outputs and gradients against float64; measured: below 4e-7."""
HEADS, KEY_DIM, VALUE_DIM, EPS = 3, 10, 22, 1e-6
LENGTHS = [200, 1, 64, 63, 65]


def draw_inputs(tokens, *, seed=0, dtype=torch.float32, heads=HEADS):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(tokens, heads, KEY_DIM, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    v = torch.randn(tokens, heads, VALUE_DIM, generator=generator, dtype=torch.float64)
    return [x.to(dtype) for x in (elu_plus_one(q), elu_plus_one(k), v)]


def empty_cache(slots, value_dim=VALUE_DIM):
    tensors = cache_tensors(num_heads=HEADS, key_dim=KEY_DIM, value_dim=value_dim)
    return {name: torch.zeros(slots, *shape, dtype=dtype) for name, shape, dtype, _ in tensors}


def whole(inputs, lengths):
    return linear_attention(*inputs, batch=Batch.packed(lengths), eps=EPS)


def arrive(inputs, pieces, *, slot=2, cache=None):
    """Outputs of one sequence that arrives in pieces of the given lengths."""
    cache = empty_cache(4) if cache is None else cache
    outputs, start = [], 0
    for piece in pieces:
        batch = Batch((piece,), (start,), (slot,), ((),))
        outputs.append(linear_attention(*(x[start : start + piece] for x in inputs), batch=batch, cache=cache, eps=EPS))
        start += piece
    return torch.cat(outputs)


def relative_error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def test_the_feature_is_elu_plus_one_with_its_gradient():
    x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    torch.testing.assert_close(elu_plus_one(x), torch.nn.functional.elu(x) + 1, rtol=1e-15, atol=1e-15)
    assert torch.autograd.gradcheck(elu_plus_one, (x.requires_grad_(),))
    extreme = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4], requires_grad=True)
    elu_plus_one(extreme).sum().backward()
    assert torch.equal(extreme.grad[2:], torch.ones(3)) and extreme.grad.isfinite().all()


@pytest.mark.parametrize("width", [1, 20, 36, 1000])
def test_a_feature_s_bits_do_not_depend_on_its_place(width):
    x = torch.randn(9, width, generator=torch.Generator().manual_seed(width)) * 3
    together = elu_plus_one(x)
    assert all(torch.equal(elu_plus_one(x[row : row + 1]), together[row : row + 1]) for row in range(9))
    assert torch.equal(elu_plus_one(x[:, width // 2 :]), together[:, width // 2 :])


def test_outputs_equal_the_float64_recurrence():
    inputs = draw_inputs(sum(LENGTHS))
    want, _, _ = linear_attention_reference(*[x.double() for x in inputs], lengths=LENGTHS, eps=EPS)
    assert relative_error(whole(inputs, LENGTHS), want) < RELATIVE_TOLERANCE
    exact = whole([x.double() for x in inputs], LENGTHS)
    torch.testing.assert_close(exact, want, rtol=1e-12, atol=1e-12)


def test_state_after_closed_chunks_holds_the_sums_of_the_recurrence():
    inputs = draw_inputs(128)
    cache = empty_cache(4)
    arrive(inputs, [100, 28], cache=cache)
    _, states, normalisers = linear_attention_reference(*[x.double() for x in inputs], lengths=[128], eps=EPS)
    assert relative_error(cache["anchor"][2, ..., :VALUE_DIM], states[0]) < RELATIVE_TOLERANCE
    assert relative_error(cache["anchor"][2, ..., VALUE_DIM], normalisers[0]) < RELATIVE_TOLERANCE
    assert cache["anchor"][[0, 1, 3]].count_nonzero() == 0


def test_gradients_equal_those_of_the_float64_recurrence():
    lengths = [100, 1, 70]
    inputs = [x.requires_grad_() for x in draw_inputs(171)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    want, _, _ = linear_attention_reference(*exact, lengths=lengths, eps=EPS)
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wanted = torch.autograd.grad((want * weights).sum(), exact)
    got = torch.autograd.grad((whole(inputs, lengths) * weights.float()).sum(), inputs)
    for name, grad, want_grad in zip("qkv", got, wanted):
        assert relative_error(grad, want_grad) < RELATIVE_TOLERANCE, name


def test_gradcheck_over_a_chunk_boundary():
    inputs = [x.requires_grad_() for x in draw_inputs(66, dtype=torch.float64, heads=1)]

    def corner(*xs):
        return whole(xs, [66])[[1, 17, 63, 64, 65], :, ::7]

    assert torch.autograd.gradcheck(corner, inputs, fast_mode=True)


def test_features_that_are_all_zero_give_zero():
    q, k, v = draw_inputs(3)
    assert torch.equal(whole([q, torch.zeros_like(k), v], [3]), torch.zeros_like(v))


@settings(max_examples=15)
@given(data=st.data())
def test_pieces_of_any_size_give_the_bits_of_the_whole(data):
    tokens = data.draw(st.integers(1, 180))
    pieces, left = [], tokens
    while left:
        pieces.append(data.draw(st.integers(1, min(left, data.draw(st.sampled_from([1, 3, 20, 100]))))))
        left -= pieces[-1]
    inputs = draw_inputs(tokens)
    assert torch.equal(arrive(inputs, pieces), whole(inputs, [tokens]))


@pytest.mark.parametrize("value_dim", [1, 4, 5, 6, 8, 9, 10, 22])
def test_one_by_one_gives_the_bits_of_the_whole(value_dim):
    q, k, v = draw_inputs(150)
    inputs = [q, k, v[:, :, :value_dim].contiguous()]
    assert torch.equal(arrive(inputs, [1] * 150, cache=empty_cache(4, value_dim)), whole(inputs, [150]))


def test_mixed_batches_in_any_slots_give_the_bits_of_packed_sequences():
    inputs = draw_inputs(sum(LENGTHS))
    sequences = list(zip(*[x.split(LENGTHS) for x in inputs]))
    cache, slots, done = empty_cache(9), [5, 2, 8, 1, 4], [0] * 5
    got, order = [[] for _ in LENGTHS], random.Random(7)
    while any(done[n] < LENGTHS[n] for n in range(5)):
        active = [n for n in range(5) if done[n] < LENGTHS[n]]
        order.shuffle(active)
        counts = [min(order.choice([1, 1, 1, 2, 17, 70]), LENGTHS[n] - done[n]) for n in active]
        rows = [torch.cat([sequences[n][i][done[n] : done[n] + c] for n, c in zip(active, counts)]) for i in range(3)]
        places = tuple(slots[n] for n in active)
        batch = Batch(tuple(counts), tuple(done[n] for n in active), places, tuple(() for _ in active))
        out = linear_attention(*rows, batch=batch, cache=cache, eps=EPS)
        for n, count, part in zip(active, counts, out.split(counts)):
            got[n].append(part)
            done[n] += count
    assert torch.equal(torch.cat([torch.cat(parts) for parts in got]), whole(inputs, LENGTHS))


def test_rows_do_not_depend_on_autograd():
    inputs = draw_inputs(130)
    with torch.inference_mode():
        without = whole(inputs, [130])
    assert torch.equal(whole([x.clone().requires_grad_() for x in inputs], [130]).detach(), without)


@pytest.mark.parametrize("name", ["anchor", "k_t", "v"])
def test_a_one_ulp_error_in_a_cached_tensor_is_seen(name):
    inputs = draw_inputs(140)
    cache = empty_cache(4)
    arrive([x[:100] for x in inputs], [100], cache=cache)
    cache[name] = torch.nextafter(cache[name], torch.tensor(9e9))
    batch = Batch((40,), (100,), (2,), ((),))
    got = linear_attention(*(x[100:] for x in inputs), batch=batch, cache=cache, eps=EPS)
    assert not torch.equal(got, whole(inputs, [140])[100:])


def test_shapes_that_do_not_fit_are_named():
    q, k, v = draw_inputs(10)
    with pytest.raises(ConfigError, match="shapes do not fit"):
        linear_attention(q, k[:, :, :-1], v, batch=Batch.packed([10]), eps=EPS)
    with pytest.raises(ConfigError, match="10 rows for a batch of 9"):
        linear_attention(q, k, v, batch=Batch.packed([9]), eps=EPS)


def test_bytes_are_those_of_the_cache():
    sizes = {"num_heads": HEADS, "key_dim": KEY_DIM, "value_dim": VALUE_DIM}
    held = sum(tensor.nbytes for tensor in empty_cache(1).values())
    assert cost.state_bytes(**sizes) + cost.open_bytes(**sizes) == held
    assert cost.flops_per_token(**sizes) > cost.recurrent_flops_per_token(**sizes)
