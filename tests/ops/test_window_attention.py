"""Sliding windows and sinks: against the reference, and independent of how rows arrive."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attention import (
    FORMS,
    GQA,
    GRADIENT_TOLERANCE,
    LENGTHS,
    MHA,
    MLA,
    SCALE,
    TOLERANCE,
    Served,
    inputs,
    whole,
)

from hyla.errors import ConfigError
from hyla.grid import CHUNK
from hyla.ops.attention import cost, plan, pytorch, stretches
from hyla.ops.attention.pytorch import tree_sum
from hyla.ops.attention.reference import attention_reference
from hyla.ops.batch import Batch
from hyla.ops.native import kernels

pytestmark = pytest.mark.usefixtures("each_backend")

WINDOWS = pytest.mark.parametrize("window", [1, 5, 64, 100, 128])
SINKS = pytest.mark.parametrize("has_sinks", [False, True], ids=["plain", "sinks"])


def sinks_of(form, dtype=torch.float32):
    """Sinks above and below the scores."""
    return torch.linspace(-3.0, 6.0, form[0]).to(dtype)


def options(form, window, has_sinks, dtype=torch.float32):
    return {"window": window, "sinks_H": sinks_of(form, dtype) if has_sinks else None}


def reference(form, data, lengths, extra):
    wide = [None if x is None else x.double() for x in data]
    sinks = None if extra["sinks_H"] is None else extra["sinks_H"].double()
    return attention_reference(*wide, Batch.packed(lengths), SCALE, form[3], extra["window"], sinks)


@FORMS
@SINKS
@pytest.mark.parametrize("window", [None, 5, 100])
def test_rows_equal_the_reference(form, window, has_sinks):
    data, extra = inputs(form, sum(LENGTHS)), options(form, window, has_sinks)
    expected = reference(form, data, LENGTHS, extra)
    out = whole(form, data, LENGTHS, **extra)
    assert out.dtype == torch.float32
    assert (out - expected).abs().max() <= TOLERANCE * expected.abs().max()
    double = [None if x is None else x.double() for x in data]
    out = whole(form, double, LENGTHS, **options(form, window, has_sinks, torch.float64))
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_a_window_of_one_reads_only_the_row_s_own_value():
    data = inputs(MHA, 150)
    assert torch.equal(whole(MHA, data, (150,), window=1), data[2])


@pytest.mark.parametrize("length", [1, 64, 200])
def test_a_window_as_long_as_the_sequence_changes_no_bit(length):
    data = inputs(GQA, length)
    assert torch.equal(whole(GQA, data, (length,), window=length), whole(GQA, data, (length,)))


def test_a_sink_far_below_the_scores_changes_no_bit_and_one_far_above_takes_all():
    data = inputs(GQA, 70)
    plain = whole(GQA, data, (70,))
    assert torch.equal(whole(GQA, data, (70,), sinks_H=torch.full((6,), -500.0)), plain)
    assert not whole(GQA, data, (70,), sinks_H=torch.full((6,), 500.0)).any()


def test_keys_behind_the_window_may_be_anything():
    data, extra = inputs(GQA, 300), options(GQA, 100, True)
    expected = whole(GQA, data, (300,), **extra)[200:]
    for x in data[1:]:
        x[:101] = 1e30
    assert torch.equal(whole(GQA, data, (300,), **extra)[200:], expected)


@pytest.mark.parametrize("form", [GQA, MLA], ids=["gqa", "mla"])
@WINDOWS
@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_pieces_equal_the_whole(form, window, chunk, dtype):
    lengths = (1, 65, 200)
    data, extra = inputs(form, sum(lengths), dtype), options(form, window, True)
    served = Served(form, data, lengths, **extra)
    while left := served.left():
        served.step({n: min(chunk, count) for n, count in left.items()})
    assert torch.equal(served.out, whole(form, data, lengths, **extra))


@settings(max_examples=30)
@given(data=st.data(), form=st.sampled_from([GQA, MLA]), window=st.sampled_from([1, 5, 64, 100, 128, 129, 300]))
def test_a_mixed_batch_gives_each_sequence_what_it_gets_alone(data, form, window):
    lengths = tuple(data.draw(st.lists(st.integers(1, 400), min_size=2, max_size=4)))
    rows, extra = inputs(form, sum(lengths)), options(form, window, data.draw(st.booleans()))
    alone = []
    for n, offset in enumerate(Batch.packed(lengths).offsets):
        part = [None if x is None else x[offset : offset + lengths[n]] for x in rows]
        alone.append(whole(form, part, (lengths[n],), **extra))
    served = Served(form, rows, lengths, seed=len(lengths), **extra)
    while left := served.left():
        chosen = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
        served.step({n: min(left[n], data.draw(st.sampled_from([1, 30, 64, 200]))) for n in chosen})
    assert torch.equal(served.out, torch.cat(alone))
    assert torch.equal(whole(form, rows, lengths, **extra), torch.cat(alone))


@WINDOWS
def test_tile_and_step_sizes_change_no_bit(window, monkeypatch):
    lengths = (200, 500)
    data, extra = inputs(GQA, sum(lengths)), options(GQA, window, True)
    expected = whole(GQA, data, lengths, **extra)
    sizes = [(1, 1 << 25, 512), (1 << 16, 1 << 12, 512), (1 << 30, 1 << 25, 64), (1 << 30, 1 << 25, 1)]
    for step_bytes, score_bytes, tile_rows in sizes:
        monkeypatch.setattr(kernels, "TILE_BYTES", step_bytes)
        monkeypatch.setattr(plan, "STEP_BYTES", step_bytes)
        monkeypatch.setattr(plan, "SCORE_BYTES", score_bytes)
        monkeypatch.setattr(plan, "MAX_TILE_ROWS", tile_rows)
        assert torch.equal(whole(GQA, data, lengths, **extra), expected)


def test_a_tree_that_starts_at_the_window_would_be_noticed(monkeypatch, torch_operators):
    data, extra = inputs(GQA, 500), options(GQA, 200, False)
    served = Served(GQA, data, (500,), **extra)
    served.step({0: 440})
    monkeypatch.setattr(pytorch, "tree_sum", lambda x_tn, first=0: tree_sum(x_tn))
    served.step({0: 60})
    assert not torch.equal(served.out, whole(GQA, data, (500,), **extra))


@settings(max_examples=60)
@given(first=st.integers(0, 40), count=st.integers(1, 13), log_step=st.integers(0, 4))
def test_a_sum_over_a_range_is_the_sum_over_the_whole_tree_with_zeros(first, count, log_step):
    x_PV = torch.randn(1, count, 7, generator=torch.Generator().manual_seed(count))
    padded = torch.nn.functional.pad(x_PV, (0, 0, first, 3))
    expected = tree_sum(padded.clone())
    assert torch.equal(tree_sum(x_PV.clone(), first), expected)
    # What decides is the place in an aligned block that the range fits in.
    assert torch.equal(tree_sum(x_PV.clone(), first % (1 << (count - 1).bit_length())), expected)
    step = 1 << log_step
    parts, at = [], first
    while at < first + count:
        end = min((at // step + 1) * step, first + count)
        parts.append(tree_sum(x_PV[:, at - first : end - first].clone(), at))
        at = end
    assert torch.equal(tree_sum(torch.stack(parts, 1), first // step), expected)


@pytest.mark.parametrize("window", [1, 5, 64, 100, 128])
def test_a_tile_meets_only_the_pages_that_its_rows_see(window):
    length = 700
    batch = Batch(lengths=(length, 1), starts=(0, 640), slots=(1, 2), pages=(tuple(range(1, 12)), tuple(range(20, 31))))
    layout = plan.HeadLayout(2, 3, 20, 36, (8, 64), window=window)
    found = plan.attention_plan(batch, layout)
    most = math.ceil((window - 1) / CHUNK) + 1
    assert max(group.num_pages for group in found.groups) <= most
    single = [group for group in found.groups if length in batch_rows(group, 6)]
    assert len(single) == 1 and single[0].num_pages == 1 + (640 // CHUNK - max(0, 641 - window) // CHUNK)


def batch_rows(group, heads) -> set[int]:
    """Flat rows of a group."""
    return set((group.source_B // heads).tolist())


@FORMS
@SINKS
def test_gradients_pass_gradcheck(form, has_sinks):
    lengths = (1, 5)
    form, is_mla = (3 * form[1], form[1], 4, 3), form is MLA
    data = [x.double().requires_grad_() for x in inputs(MLA if is_mla else form, sum(lengths)) if x is not None]
    if is_mla:
        data = [torch.randn(6, heads, 4).double().requires_grad_() for heads in form[:2]]
    sinks = [sinks_of(form, torch.float64).mul(0.3).requires_grad_()] if has_sinks else []

    def run(*leaves):
        rows = [*leaves[: len(data)], None][:3]
        return whole(form, rows, lengths, window=3, sinks_H=leaves[len(data)] if has_sinks else None)

    assert torch.autograd.gradcheck(run, [*data, *sinks])


@FORMS
@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize("score_bytes", [1 << 24, 1 << 12], ids=["one stretch", "many stretches"])
def test_fp32_gradients_equal_the_reference(form, window, score_bytes, monkeypatch):
    monkeypatch.setattr(stretches, "SCORE_BYTES", score_bytes)
    lengths = (1, 65, 140)
    data, sinks = inputs(form, sum(lengths)), sinks_of(form).requires_grad_()
    weight = torch.randn(sum(lengths), form[0], form[3], generator=torch.Generator().manual_seed(9))
    leaves = [x.requires_grad_() for x in data if x is not None] + [sinks]
    out = whole(form, data, lengths, window=window, sinks_H=sinks)
    assert torch.equal(out, whole(form, [None if x is None else x.detach() for x in data], lengths,
                                  window=window, sinks_H=sinks.detach()))  # fmt: skip
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    wide = [None if x is None else x.detach().double().requires_grad_() for x in [*data, sinks]]
    out = attention_reference(*wide[:3], Batch.packed(lengths), SCALE, form[3], window, wide[3])
    expected = torch.autograd.grad((out * weight.double()).sum(), [x for x in wide if x is not None])
    for grad, right in zip(grads, expected, strict=True):
        assert (grad - right).norm() <= GRADIENT_TOLERANCE * right.norm()


def test_wrong_windows_and_sinks_are_named():
    data = inputs(GQA, 3)
    with pytest.raises(ConfigError, match="window = 0"):
        whole(GQA, data, (3,), window=0)
    with pytest.raises(ConfigError, match=r"sinks are \[2\]"):
        whole(GQA, data, (3,), sinks_H=torch.zeros(2))
    with pytest.raises(ConfigError, match="bfloat16"):
        whole(GQA, data, (3,), sinks_H=torch.zeros(6, dtype=torch.bfloat16))


@WINDOWS
def test_costs_are_the_counted_ones(window):
    met = sum(min(position + 1, window) for position in range(90, 150))
    assert cost.flops(90, 60, 6, 20, 36, window) == met * 6 * (2 * 20 + 2 * 36)
    pages = {position // CHUNK for position in range(max(0, 150 - window), 150)}
    per_token = cost.cache_bytes_per_token(2, 20, 36, 2)
    assert cost.decode_bytes(150, 2, 20, 36, 2, window) == (len(pages) * CHUNK + 1) * per_token
