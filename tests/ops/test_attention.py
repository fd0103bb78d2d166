"""Softmax attention against its reference, and its independence of how rows arrive and where pages lie."""

import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import ConfigError, RequestError
from hyla.grid import CHUNK
from hyla.ops import native
from hyla.ops.attention import PagedKV, attention, cost, plan, pytorch, stretches
from hyla.ops.attention.pytorch import tree_sum
from hyla.ops.attention.reference import attention_reference
from hyla.ops.batch import Batch
from hyla.ops.native import kernels

pytestmark = pytest.mark.usefixtures("each_backend")

LENGTHS = (1, 63, 64, 65, 200)
SCALE = 0.31
TOLERANCE = 2e-6
"""Relative error of fp32 outputs against float64."""
GRADIENT_TOLERANCE = 1e-5
"""Relative error of fp32 gradients against float64."""

GQA = (6, 2, 20, 36)
MHA = (3, 3, 36, 20)
MLA = (5, 1, 28, 20)
"""Hq, G, K, V; MLA reads its values from the keys."""
FORMS = pytest.mark.parametrize("form", [GQA, MHA, MLA], ids=["gqa", "mha", "mla"])


def inputs(form, tokens, dtype=torch.float32, seed=0):
    heads, groups, key_dim, value_dim = form
    generator = torch.Generator().manual_seed(seed)
    q_THK = torch.randn(tokens, heads, key_dim, generator=generator) * 2
    k_TGK = torch.randn(tokens, groups, key_dim, generator=generator)
    v_TGV = None if form is MLA else torch.randn(tokens, groups, value_dim, generator=generator)
    return [None if x is None else x.to(dtype) for x in (q_THK, k_TGK, v_TGV)]


def whole(form, data, lengths, **extra):
    return attention(*data, batch=Batch.packed(lengths), cache=None, scale=SCALE, value_dim=form[3], **extra)


def reference(form, data, lengths):
    wide = [None if x is None else x.double() for x in data]
    return attention_reference(*wide, Batch.packed(lengths), SCALE, form[3])


class Served:
    """Sequences against hand-made pages, scattered unless `in_order`; each step takes {sequence: new rows}."""

    def __init__(self, form, data, lengths, seed=0, in_order=False, **extra):
        heads, groups, key_dim, value_dim = form
        self.extra = extra
        self.form, self.data, self.lengths = form, data, lengths
        dtype = data[1].dtype
        counts = [-(-length // CHUNK) for length in lengths]
        free = list(range(1, 1 + sum(counts)))
        if not in_order:
            random.Random(seed).shuffle(free)
        self.pages = [tuple(free.pop(0) for _ in range(count)) for count in counts]
        # Stale numbers of an earlier owner must not matter, as long as they are finite.
        k_pages = torch.full((1 + sum(counts), groups, key_dim, CHUNK), 3.0, dtype=dtype)
        v_pages = None if form is MLA else torch.full((1 + sum(counts), groups, CHUNK, value_dim), 5.0, dtype=dtype)
        for pages in (k_pages, v_pages):
            if pages is not None:
                pages[0] = 0
        self.cache = PagedKV(k_pages, v_pages)
        self.done = [0] * len(lengths)
        self.first = Batch.packed(lengths).offsets
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.out = torch.full((sum(lengths), heads, value_dim), torch.nan, dtype=wide)

    def step(self, new_rows: dict[int, int]):
        starts = tuple(self.done[n] for n in new_rows)
        batch = Batch(
            lengths=tuple(new_rows.values()),
            starts=starts,
            slots=tuple(n + 1 for n in new_rows),
            pages=tuple(self.pages[n] for n in new_rows),
        )
        spans = [torch.arange(count) + self.first[n] + self.done[n] for n, count in new_rows.items()]
        rows = torch.cat(spans)
        part = [None if x is None else x[rows] for x in self.data]
        common = dict(batch=batch, cache=self.cache, scale=SCALE, value_dim=self.form[3])
        self.out[rows] = attention(*part, **common, **self.extra)
        for n, count in new_rows.items():
            self.done[n] += count

    def left(self) -> dict[int, int]:
        return {n: length - self.done[n] for n, length in enumerate(self.lengths) if length > self.done[n]}


@FORMS
def test_rows_equal_the_reference(form):
    data = inputs(form, sum(LENGTHS))
    expected = reference(form, data, LENGTHS)
    out = whole(form, data, LENGTHS)
    assert out.dtype == torch.float32 and out.shape == expected.shape
    assert (out - expected).abs().max() <= TOLERANCE * expected.abs().max()
    double = whole(form, [None if x is None else x.double() for x in data], LENGTHS)
    torch.testing.assert_close(double, expected, rtol=1e-12, atol=1e-12)


@FORMS
def test_bf16_rows_are_computed_in_fp32(form):
    data = inputs(form, sum(LENGTHS), torch.bfloat16)
    wide = [None if x is None else x.float() for x in data]
    assert torch.equal(whole(form, data, LENGTHS), whole(form, wide, LENGTHS))


def test_huge_scores_stay_finite_and_right():
    data = inputs(GQA, 130)
    data[0] = data[0] * 300
    expected = reference(GQA, data, (130,))
    out = whole(GQA, data, (130,))
    # Scores of some thousands leave an fp32 score an error of 1e-3, and the output follows.
    assert torch.isfinite(out).all() and (out - expected).abs().max() <= 1e-2 * expected.abs().max()


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_chunks_through_scattered_pages_equal_the_whole(form, dtype, chunk):
    data = inputs(form, sum(LENGTHS), dtype)
    served = Served(form, data, LENGTHS)
    while left := served.left():
        served.step({n: min(chunk, count) for n, count in left.items()})
    assert torch.equal(served.out, whole(form, data, LENGTHS))
    assert not served.cache.k_pages[0].any(), "the null page is never written"


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    form=st.sampled_from([GQA, MLA]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    in_order=st.booleans(),
)
def test_splitting_a_sequence_anywhere_changes_no_bit(cuts, form, dtype, in_order):
    data = inputs(form, sum(cuts), dtype)
    served = Served(form, data, (sum(cuts),), in_order=in_order)
    for cut in cuts:
        served.step({0: cut})
    assert torch.equal(served.out, whole(form, data, (sum(cuts),)))


@settings(max_examples=20)
@given(data=st.data(), form=st.sampled_from([GQA, MLA]))
def test_a_mixed_batch_gives_each_sequence_what_it_gets_alone(data, form):
    lengths = tuple(data.draw(st.lists(st.integers(1, 150), min_size=2, max_size=5)))
    rows = inputs(form, sum(lengths))
    alone = []
    for n, offset in enumerate(Batch.packed(lengths).offsets):
        part = [None if x is None else x[offset : offset + lengths[n]] for x in rows]
        alone.append(whole(form, part, (lengths[n],)))
    served = Served(form, rows, lengths, seed=len(lengths))
    while left := served.left():
        chosen = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
        served.step({n: min(left[n], data.draw(st.sampled_from([1, 5, 64, 150]))) for n in chosen})
    assert torch.equal(served.out, torch.cat(alone))
    assert torch.equal(whole(form, rows, lengths), torch.cat(alone))


def test_rolled_back_rows_leave_no_trace():
    length = 100
    data = inputs(GQA, length)
    served = Served(GQA, data, (length,))
    served.step({0: 60})
    served.data = [x.flip(0) for x in data]
    served.step({0: 9})
    served.data, served.done = data, [60]
    served.step({0: 1})
    served.step({0: 39})
    assert torch.equal(served.out, whole(GQA, data, (length,)))


@FORMS
def test_tile_and_step_sizes_change_no_bit(form, monkeypatch):
    data = inputs(form, sum(LENGTHS))
    expected = whole(form, data, LENGTHS)
    sizes = [(1, 1 << 25, 512), (1 << 16, 1 << 12, 512), (1 << 30, 1 << 25, 64), (1 << 30, 1 << 25, 1)]
    for step_bytes, score_bytes, tile_rows in sizes:
        monkeypatch.setattr(kernels, "TILE_BYTES", step_bytes)
        monkeypatch.setattr(plan, "STEP_BYTES", step_bytes)
        monkeypatch.setattr(plan, "SCORE_BYTES", score_bytes)
        monkeypatch.setattr(plan, "MAX_TILE_ROWS", tile_rows)
        assert torch.equal(whole(form, data, LENGTHS), expected)


def test_a_wrong_order_of_summation_would_be_noticed(monkeypatch, torch_operators):
    data = inputs(GQA, 300)
    expected = whole(GQA, data, (300,))
    monkeypatch.setattr(pytorch, "tree_sum", lambda x_tn, first=0: x_tn.flip(1).sum(1))
    assert not torch.equal(whole(GQA, data, (300,)), expected)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_empty_pages_behind_the_last_add_nothing(count):
    x_PV = torch.randn(1, count, 7, generator=torch.Generator().manual_seed(count))
    longer = torch.nn.functional.pad(x_PV, (0, 0, 0, 9))
    assert torch.equal(tree_sum(x_PV.clone()), tree_sum(longer))
    torch.testing.assert_close(tree_sum(x_PV.clone()), x_PV.sum(1))


@FORMS
def test_gradients_pass_gradcheck(form):
    lengths = (1, 4)
    form, small = (3 * form[1], form[1], 4, 3), form
    data = [None if x is None else x.double().requires_grad_() for x in inputs(form, sum(lengths))]
    data = data[:2] + [None] if small is MLA else data
    leaves = [x for x in data if x is not None]

    def run(*leaves):
        return whole(form, [*leaves, None][:3], lengths)

    assert torch.autograd.gradcheck(run, leaves)


@FORMS
@pytest.mark.parametrize("score_bytes", [1 << 24, 1 << 12], ids=["one stretch", "many stretches"])
def test_fp32_gradients_equal_the_reference(form, score_bytes, monkeypatch):
    monkeypatch.setattr(stretches, "SCORE_BYTES", score_bytes)
    lengths = (1, 65, 3, 140)
    data = inputs(form, sum(lengths))
    weight = torch.randn(sum(lengths), form[0], form[3], generator=torch.Generator().manual_seed(9))
    leaves = [x.requires_grad_() for x in data if x is not None]
    grads = torch.autograd.grad((whole(form, data, lengths) * weight).sum(), leaves)
    wide = [None if x is None else x.detach().double().requires_grad_() for x in data]
    out = attention_reference(*wide, Batch.packed(lengths), SCALE, form[3])
    expected = torch.autograd.grad((out * weight.double()).sum(), [x for x in wide if x is not None])
    for grad, right in zip(grads, expected):
        assert grad.dtype == torch.float32
        assert (grad - right).norm() <= GRADIENT_TOLERANCE * right.norm()


def test_autograd_changes_no_bit_and_bf16_gradients_keep_their_dtype():
    data = inputs(GQA, 70, torch.bfloat16)
    expected = whole(GQA, data, (70,))
    leaves = [x.requires_grad_() for x in data]
    out = whole(GQA, leaves, (70,))
    assert torch.equal(out, expected)
    grads = torch.autograd.grad(out.sum(), leaves)
    assert all(grad.dtype == torch.bfloat16 for grad in grads)


def test_wrong_shapes_and_missing_pages_are_named():
    q_THK, k_TGK, v_TGV = inputs(GQA, 10)
    packed = Batch.packed([10])
    common = dict(cache=None, scale=SCALE)
    with pytest.raises(ConfigError, match=r"q \[10, 5, 20\]"):
        attention(q_THK[:, :5], k_TGK, v_TGV, batch=packed, **common)
    with pytest.raises(ConfigError, match="value_dim"):
        attention(q_THK, k_TGK, None, batch=packed, **common)
    with pytest.raises(ConfigError, match="9 tokens"):
        attention(q_THK, k_TGK, v_TGV, batch=Batch.packed([9]), **common)
    later = Batch(lengths=(10,), starts=(60,), slots=(1,), pages=((1,),))
    with pytest.raises(RequestError, match="60"):
        attention(q_THK, k_TGK, v_TGV, batch=later, **common)
    pages = PagedKV(torch.zeros(3, 2, 20, CHUNK), torch.zeros(3, 2, CHUNK, 36))
    with pytest.raises(ConfigError, match="needs 2 pages"):
        attention(q_THK, k_TGK, v_TGV, batch=later, cache=pages, scale=SCALE)
    with pytest.raises(ConfigError, match="v_pages"):
        wrong = PagedKV(pages.k_pages, pages.v_pages.transpose(2, 3))
        attention(q_THK, k_TGK, v_TGV, batch=later, cache=wrong, scale=SCALE)
    with pytest.raises(ConfigError, match="no pages"):
        attention(q_THK, k_TGK, v_TGV, batch=packed, cache=pages, scale=SCALE)


def test_costs_are_the_counted_ones():
    keys_met = sum(start + 1 for start in range(30, 37))
    assert cost.flops(30, 7, 6, 20, 36) == keys_met * 6 * (2 * 20 + 2 * 36)
    _, k_TGK, v_TGV = inputs(GQA, 100, torch.bfloat16)
    served = Served(GQA, [k_TGK.new_zeros(100, 6, 20), k_TGK, v_TGV], (100,))
    one_page = served.cache.k_pages[0].nbytes + served.cache.v_pages[0].nbytes
    assert cost.cache_bytes_per_token(2, 20, 36, 2) * CHUNK == one_page
    assert cost.decode_bytes(100, 2, 20, 36, 2) == 2 * one_page + one_page // CHUNK
    assert cost.scratch_bytes(100, 2, 20, 36, 2) == 3 * one_page


MEMORY = """
import resource
import torch
from hyla.ops.attention import attention
from hyla.ops.batch import Batch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def attend(tokens):
    q = torch.randn(tokens, 4, 16)
    attention(q, q[:, :2].contiguous(), q[:, 2:].contiguous(), batch=Batch.packed([tokens]), cache=None, scale=0.25)

torch.set_num_threads(2)
attend(200)
before = peak()
attend(4096)
print(peak() - before)
"""


@pytest.mark.skipif(native.why_missing() is not None, reason="the CPU has no kernels")
def test_a_prompt_s_memory_grows_with_its_length_and_not_with_its_square():
    """4,096 tokens: the scores of one head alone would be 64 MB. What grows with the length is 6 MB here; 32 MB is what
    the kernel may take for superblocks side by side."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 48 << 20
