"""Gradients of softmax attention: against float64, between backends, and independent of what is beside a document."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attention import FORMS, GQA, GRADIENT_TOLERANCE, MHA, MLA, SCALE, inputs, whole
from test_window_attention import sinks_of

from hyla.errors import RequestError
from hyla.ops import backends, native
from hyla.ops.attention.reference import attention_reference
from hyla.ops.batch import Batch

pytestmark = pytest.mark.usefixtures("each_backend")

WIDE = (4, 2, 130, 72)
"""More channels than a strip of 64 columns, and no whole vectors of keys."""
LONG = (200, 330, 64)
BF16_TOLERANCE = 2.0**-8
"""Relative error of gradients that are rounded to bf16."""
needs_kernels = pytest.mark.skipif(native.why_missing() is not None, reason="the CPU has no kernels")


def weight_of(form, tokens, seed=9):
    return torch.randn(tokens, form[0], form[3], generator=torch.Generator().manual_seed(seed))


def gradients(form, data, lengths, weight, window=None, sinks=None):
    """Of q, k, v (None: values are keys) and the sinks, of the weighted sum of the outputs."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in (*data, sinks)]
    out = whole(form, leaves[:3], lengths, window=window, sinks_H=leaves[3])
    return torch.autograd.grad((out * weight).sum(), [x for x in leaves if x is not None])


def right_gradients(form, data, lengths, weight, window=None, sinks=None):
    wide = [None if x is None else x.double().requires_grad_() for x in (*data, sinks)]
    out = attention_reference(*wide[:3], Batch.packed(lengths), SCALE, form[3], window, wide[3])
    return torch.autograd.grad((out * weight.double()).sum(), [x for x in wide if x is not None])


def assert_close(found, right, tolerance=GRADIENT_TOLERANCE):
    for grad, other in zip(found, right, strict=True):
        assert (grad.double() - other.double()).norm() <= tolerance * other.double().norm()


@pytest.mark.parametrize("form", [GQA, MHA, MLA, WIDE], ids=["gqa", "mha", "mla", "wide"])
@pytest.mark.parametrize("lengths", [(1,), (2, 1, 63), (129,), (64, 65)])
@pytest.mark.parametrize("window", [None, 1, 70])
def test_odd_lengths_have_the_gradients_of_float64(form, lengths, window):
    data, weight = inputs(form, sum(lengths)), weight_of(form, sum(lengths))
    sinks = sinks_of(form)
    # A window of one and no sink: q and k have no gradient at all.
    found = gradients(form, data, lengths, weight, window, sinks)
    assert_close(found, right_gradients(form, data, lengths, weight, window, sinks))


@FORMS
def test_bf16_inputs_have_the_gradients_of_the_numbers_they_are(form):
    data, weight = inputs(form, 150, torch.bfloat16), weight_of(form, 150)
    found = gradients(form, data, (20, 130), weight)
    assert all(grad.dtype == torch.bfloat16 for grad in found)
    assert_close(found, right_gradients(form, data, (20, 130), weight), BF16_TOLERANCE)
    wide = [None if x is None else x.float() for x in data]
    rounded = [grad.bfloat16() for grad in gradients(form, wide, (20, 130), weight)]
    assert all(map(torch.equal, found, rounded)), "they are computed in fp32 and rounded once"


@needs_kernels
@FORMS
@pytest.mark.parametrize("window", [None, 128])
def test_backends_differ_by_rounding_only(form, window, each_backend):
    data, weight, sinks = inputs(form, sum(LONG)), weight_of(form, sum(LONG)), sinks_of(form)
    found = {}
    for name in ("native", "torch"):
        backends.use(name)
        found[name] = gradients(form, data, LONG, weight, window, sinks)
    backends.use(each_backend)
    assert_close(found["native"], found["torch"])
    assert not all(map(torch.equal, *found.values()))


@settings(max_examples=25)
@given(
    data=st.data(),
    form=st.sampled_from([GQA, MHA, MLA, WIDE]),
    window=st.sampled_from([None, 1, 5, 64, 100, 300]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_document_s_gradients_do_not_depend_on_the_others(data, form, window, dtype):
    draw_lengths = st.lists(st.integers(1, 200), max_size=3)
    own = data.draw(st.integers(1, 400))
    rows, weight, sinks = inputs(form, own, dtype, seed=3), weight_of(form, own), sinks_of(form)
    found = []
    for seed in (1, 2):
        before, after = data.draw(draw_lengths), data.draw(draw_lengths)
        others = [inputs(form, sum(lengths), dtype, seed) for lengths in (before, after)]
        packed = [None if x is None else torch.cat(parts) for x, *parts in zip(rows, others[0], rows, others[1])]
        weights = [weight_of(form, sum(before), seed), weight, weight_of(form, sum(after), seed)]
        grads = gradients(form, packed, (*before, own, *after), torch.cat(weights), window, sinks)
        found.append([grad[sum(before) : sum(before) + own] for grad in grads[:-1]])
    assert all(map(torch.equal, *found))


@needs_kernels
@FORMS
@pytest.mark.parametrize("window", [None, 100])
def test_threads_change_no_bit_of_a_gradient(form, window, each_backend):
    if each_backend != "native":
        pytest.skip("PyTorch's products may sum in another order with other threads")
    lengths = (500, 1, 130)
    data, weight, sinks = inputs(form, sum(lengths)), weight_of(form, sum(lengths)), sinks_of(form)
    before, found = torch.get_num_threads(), []
    try:
        # Tiles are smaller where there are more threads.
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(gradients(form, data, lengths, weight, window, sinks))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_the_sinks_gradient_is_the_ordered_sum_of_the_documents(each_backend):
    if each_backend != "native":
        pytest.skip("PyTorch sums all rows at once")
    lengths, sinks = (70, 1, 200), sinks_of(GQA)
    data, weight = inputs(GQA, sum(lengths)), weight_of(GQA, sum(lengths))
    total = torch.zeros(6)
    for offset, length in zip(Batch.packed(lengths).offsets, lengths):
        rows = slice(offset, offset + length)
        total += gradients(GQA, [x[rows] for x in data], (length,), weight[rows], None, sinks)[-1]
    assert torch.equal(gradients(GQA, data, lengths, weight, None, sinks)[-1], total)


def test_a_sink_far_above_every_score_takes_all_and_gradients_stay_finite():
    data, weight = inputs(GQA, 70), weight_of(GQA, 70)
    *rows, sinks = gradients(GQA, data, (70,), weight, None, torch.full((6,), 500.0))
    assert all(torch.isfinite(grad).all() and not grad.any() for grad in (*rows, sinks))


def test_queries_and_outputs_may_lie_anywhere():
    """Heads of a wider projection, and a gradient that is one number for all."""
    tokens = 90
    q_THK, k_TGK, v_TGV = inputs(GQA, tokens)
    expected = gradients(GQA, [q_THK, k_TGK, v_TGV], (tokens,), torch.ones(1))
    both = torch.cat([q_THK.flatten(1), k_TGK.flatten(1), v_TGV.flatten(1)], 1).requires_grad_()
    q, k, v = both.split([120, 40, 72], 1)
    parts = [x.unflatten(1, (heads, -1)) for x, heads in ((q, 6), (k, 2), (v, 2))]
    whole(GQA, parts, (tokens,)).sum().backward()
    assert torch.equal(both.grad, torch.cat([grad.flatten(1) for grad in expected], 1))


def test_a_document_without_tokens_is_refused_by_name():
    with pytest.raises(RequestError, match="at least one new token"):
        Batch.packed([3, 0])


MEMORY = """
import resource
import torch
from hyla.ops.attention import attention
from hyla.ops.batch import Batch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def attend(tokens):
    q = torch.randn(tokens, 4, 16, requires_grad=True)
    k, v = (torch.randn(tokens, 2, 16, requires_grad=True) for _ in range(2))
    attention(q, k, v, batch=Batch.packed([tokens]), cache=None, scale=0.25).sum().backward()

torch.set_num_threads(2)
attend(200)
before = peak()
attend(8192)
print(peak() - before)
"""


@needs_kernels
def test_a_gradient_s_memory_grows_with_the_length_and_not_with_its_square():
    """8,192 tokens: the scores of one head alone would be 256 MB. What grows with the length is some 25 MB here; 32 MB
    is what the forward pass may take for superblocks side by side."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80 << 20
