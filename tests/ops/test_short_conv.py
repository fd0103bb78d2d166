"""The short convolution against its reference, and its independence of how rows arrive."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import ConfigError, RequestError
from hyla.ops.batch import Batch
from hyla.ops.short_conv import RING, cost, short_conv
from hyla.ops.short_conv.reference import short_conv_reference

pytestmark = pytest.mark.usefixtures("each_backend")

C = 20
LENGTHS = (1, 70, 2, 3, 33, 4)
TOLERANCE = 1e-6
"""Relative error of fp32 against float64: four products and three sums."""


def inputs(lengths=LENGTHS, taps=4, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_TC = torch.randn(sum(lengths), C, generator=generator).to(dtype)
    weight_CL = torch.randn(C, taps, generator=generator).to(dtype)
    return x_TC, weight_CL


def cached(starts, lengths, slots):
    return Batch(lengths=tuple(lengths), starts=tuple(starts), slots=tuple(slots), pages=((),) * len(lengths))


@pytest.mark.parametrize("taps", [1, 2, 4, 8])
def test_rows_equal_the_reference(taps):
    x_TC, weight_CL = inputs(taps=taps)
    batch = Batch.packed(LENGTHS)
    expected = short_conv_reference(x_TC.double(), weight_CL.double(), batch)
    y_TC = short_conv(x_TC, weight_CL, batch=batch, cache=None)
    assert y_TC.dtype == torch.float32
    assert (y_TC - expected).abs().max() <= TOLERANCE * expected.abs().max()
    double = short_conv(x_TC.double(), weight_CL.double(), batch=batch, cache=None)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, expected, rtol=1e-13, atol=1e-13)


def test_bf16_rows_are_computed_in_fp32():
    x_TC, weight_CL = inputs(dtype=torch.bfloat16)
    batch = Batch.packed(LENGTHS)
    y_TC = short_conv(x_TC, weight_CL, batch=batch, cache=None)
    assert torch.equal(y_TC, short_conv(x_TC.float(), weight_CL.float(), batch=batch, cache=None))


def test_stretches_do_not_change_a_bit(monkeypatch):
    from hyla.ops.short_conv import pytorch

    x_TC, weight_CL = inputs()
    batch = Batch.packed(LENGTHS)
    whole = short_conv(x_TC, weight_CL, batch=batch, cache=None)
    monkeypatch.setattr(pytorch, "STRETCH_ELEMENTS", 7 * C)
    assert torch.equal(short_conv(x_TC, weight_CL, batch=batch, cache=None), whole)


@settings(max_examples=40)
@given(
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    taps=st.sampled_from([2, 4, 8]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_splitting_a_sequence_anywhere_changes_no_bit(cuts, taps, dtype):
    length = sum(cuts)
    x_TC, weight_CL = inputs((length,), taps, dtype)
    whole = short_conv(x_TC, weight_CL, batch=Batch.packed([length]), cache=None)
    ring = torch.zeros(3, RING, C, dtype=dtype)
    parts, start = [], 0
    for cut in cuts:
        batch = cached([start], [cut], [2])
        parts.append(short_conv(x_TC[start : start + cut], weight_CL, batch=batch, cache=ring))
        start += cut
    assert torch.equal(torch.cat(parts), whole)
    assert not ring[:2].any(), "only the sequence's own slot is written"


@settings(max_examples=25)
@given(data=st.data())
def test_a_mixed_batch_gives_each_sequence_what_it_gets_alone(data):
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=2, max_size=6))
    splits = [data.draw(st.integers(0, length - 1)) for length in lengths]
    slots = data.draw(st.permutations(range(1, len(lengths) + 1)))
    x_TC, weight_CL = inputs(lengths)
    sequences = x_TC.split(lengths)
    alone = [short_conv(x, weight_CL, batch=Batch.packed([len(x)]), cache=None) for x in sequences]
    ring = torch.zeros(len(lengths) + 1, RING, C)
    for x, split, slot in zip(sequences, splits, slots):
        if split:
            short_conv(x[:split], weight_CL, batch=cached([0], [split], [slot]), cache=ring)
    rest = [x[split:] for x, split in zip(sequences, splits)]
    batch = cached(splits, [len(x) for x in rest], slots)
    together = short_conv(torch.cat(rest), weight_CL, batch=batch, cache=ring).split(batch.lengths)
    for mine, other, split in zip(together, alone, splits):
        assert torch.equal(mine, other[split:])


def test_decoding_many_sequences_at_once_equals_decoding_each_alone():
    lengths = (2, 19, 7)
    x_TC, weight_CL = inputs(lengths)
    sequences = x_TC.split(lengths)
    ring = torch.zeros(4, RING, C)
    for slot, x in enumerate(sequences, start=1):
        short_conv(x[:-1], weight_CL, batch=cached([0], [len(x) - 1], [slot]), cache=ring)
    batch = cached([n - 1 for n in lengths], [1, 1, 1], [1, 2, 3])
    last = short_conv(torch.stack([x[-1] for x in sequences]), weight_CL, batch=batch, cache=ring)
    whole = short_conv(x_TC, weight_CL, batch=Batch.packed(lengths), cache=None)
    assert torch.equal(last, torch.stack([y[-1] for y in whole.split(lengths)]))


@pytest.mark.parametrize("kept", [0, 1, 2, 5, 20])
def test_rolled_back_drafts_are_forgotten(kept):
    taps, drafts = 4, RING - 3
    x_TC, weight_CL = inputs((kept + 6,))
    ring = torch.zeros(2, RING, C)
    if kept:
        short_conv(x_TC[:kept], weight_CL, batch=cached([0], [kept], [1]), cache=ring)
    junk = torch.full((drafts, C), torch.nan)
    short_conv(junk, weight_CL, batch=cached([kept], [drafts], [1]), cache=ring)
    again = short_conv(x_TC[kept:], weight_CL, batch=cached([kept], [6], [1]), cache=ring)
    whole = short_conv(x_TC, weight_CL, batch=Batch.packed([kept + 6]), cache=None)
    assert weight_CL.shape[1] == taps
    assert torch.equal(again, whole[kept:])


def test_autograd_changes_no_bit_and_the_gradient_is_right():
    lengths = (1, 6, 2, 9)
    x_TC, weight_CL = (tensor.double().requires_grad_() for tensor in inputs(lengths))
    batch = Batch.packed(lengths)
    assert torch.autograd.gradcheck(lambda x, w: short_conv(x, w, batch=batch, cache=None), (x_TC, weight_CL))
    with torch.no_grad():
        plain = short_conv(x_TC, weight_CL, batch=batch, cache=None)
    assert torch.equal(short_conv(x_TC, weight_CL, batch=batch, cache=None), plain)


def test_the_gradient_with_a_cache_counts_the_inputs_before_the_call():
    starts, lengths = (2, 7, 0), (5, 2, 1)
    x_TC, weight_CL = (tensor.double().requires_grad_() for tensor in inputs(lengths))
    before = torch.randn(4, RING, C, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    batch = cached(starts, lengths, (1, 2, 3))
    assert torch.autograd.gradcheck(lambda x, w: short_conv(x, w, batch=batch, cache=before.clone()), (x_TC, weight_CL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_a_long_batch_equal_the_reference_in_float64(dtype, monkeypatch):
    from hyla.ops.short_conv import pytorch

    monkeypatch.setattr(pytorch, "STRETCH_ELEMENTS", 11 * C)
    x_TC, weight_CL = (tensor.requires_grad_() for tensor in inputs(dtype=dtype))
    batch = Batch.packed(LENGTHS)
    grad_TC = torch.randn(x_TC.shape, generator=torch.Generator().manual_seed(1))
    short_conv(x_TC, weight_CL, batch=batch, cache=None).backward(grad_TC)
    x64, weight64 = (tensor.detach().double().requires_grad_() for tensor in (x_TC, weight_CL))
    short_conv_reference(x64, weight64, batch).backward(grad_TC.double())
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    for mine, expected in ((x_TC.grad, x64.grad), (weight_CL.grad, weight64.grad)):
        assert mine.dtype == dtype
        assert (mine - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_document_in_pieces_with_states_has_the_bits_of_the_whole(dtype):
    lengths = (2, 19, 7)
    x_TC, weight_CL = inputs(lengths, dtype=dtype)
    whole = short_conv(x_TC, weight_CL, batch=Batch.packed(lengths), cache=None).split(lengths)
    first, second = zip(*(x.split([1, len(x) - 1]) for x in x_TC.split(lengths)))
    head, state = short_conv(torch.cat(first), weight_CL, batch=Batch.packed([1] * 3), cache=None, return_state=True)
    batch = Batch(tuple(n - 1 for n in lengths), (1, 1, 1))
    rest, final = short_conv(torch.cat(second), weight_CL, batch=batch, cache=None, state=state, return_state=True)
    for n, tail in enumerate(rest.split(batch.lengths)):
        assert torch.equal(torch.cat([head[n : n + 1], tail]), whole[n])
    taps = weight_CL.shape[1]
    for n, x in enumerate(x_TC.split(lengths)):
        padded = torch.cat([x.new_zeros(taps, x.shape[1]), x])
        assert torch.equal(final[n], padded[-(taps - 1) :])


def test_states_have_gradients():
    lengths = (1, 6, 2)
    x_TC, weight_CL = (tensor.double().requires_grad_() for tensor in inputs(lengths))
    shape = (3, weight_CL.shape[1] - 1, C)
    state = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    batch = Batch(lengths, (5, 0, 64))

    def run(x, w, s):
        return short_conv(x, w, batch=batch, cache=None, state=s, return_state=True)

    assert torch.autograd.gradcheck(run, (x_TC, weight_CL, state))


def test_wrong_shapes_and_a_missing_cache_are_named():
    x_TC, weight_CL = inputs()
    with pytest.raises(ConfigError, match="19 channels"):
        short_conv(x_TC[:, 1:], weight_CL, batch=Batch.packed(LENGTHS), cache=None)
    with pytest.raises(ConfigError, match="slots, 16, 20"):
        short_conv(x_TC[:1], weight_CL, batch=cached([0], [1], [1]), cache=torch.zeros(2, 4, C))
    with pytest.raises(RequestError, match="needs a cache"):
        short_conv(x_TC[:1], weight_CL, batch=cached([3], [1], [1]), cache=None)
    with pytest.raises(ConfigError, match="states are"):
        short_conv(x_TC[:1], weight_CL, batch=Batch((1,), (3,)), cache=None, state=torch.zeros(1, 1, C))
    with pytest.raises(ConfigError, match="a cache or states"):
        ring = torch.zeros(2, RING, C)
        short_conv(x_TC[:1], weight_CL, batch=cached([0], [1], [1]), cache=ring, return_state=True)
    with pytest.raises(ConfigError, match="17 taps"):
        short_conv(x_TC, torch.zeros(C, 17), batch=Batch.packed(LENGTHS), cache=None)


def test_costs_count_products_sums_and_bytes():
    assert cost.flops_per_token(C, 4) == C * 7
    assert cost.cache_bytes_per_sequence(C, 2) == torch.zeros(1, RING, C, dtype=torch.bfloat16).nbytes
    assert cost.decode_bytes_per_sequence(C, 4, 2) == C * (3 * 2 + 2 * 2 + 4)
