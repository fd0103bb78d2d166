"""How far index scores are from what attention reads: against plain float64 math, and no neighbour changes a bit."""

import pytest
import torch
from test_sparse import INDEX_SCALE, LENGTHS, SCALE, inputs, relative_error

from hyla.errors import ConfigError, RequestError
from hyla.ops.batch import Batch
from hyla.ops.sparse import divergence, index_divergence, select_keys
from hyla.ops.sparse.reference import divergence_reference, index_scores_reference, selection_reference

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
"""Relative error against float64; measured: below 1e-14 and 2e-6."""

SELECTED = [None, 7, 70, 500]


def selection_of(data, batch, num_selected):
    if num_selected is None:
        return None
    return select_keys(*data[:3], batch=batch, cache=None, scale=INDEX_SCALE, num_selected=num_selected)


def found_of(data, batch, num_selected, weights_T):
    """The divergences, and the gradients of their weighted sum to index queries, keys and weights."""
    learnt = [x.clone().requires_grad_() for x in data[:3]]
    options = {"scale": INDEX_SCALE, "attention_scale": SCALE}
    selection = selection_of(data, batch, num_selected)
    found_T = index_divergence(*learnt, *data[3:], batch=batch, selection=selection, **options)
    (found_T * weights_T.to(found_T.dtype)).sum().backward()
    return [found_T.detach(), *(x.grad for x in learnt)]


def row_weights(tokens):
    return torch.rand(tokens, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_selected", SELECTED)
def test_divergences_and_gradients_equal_plain_float64_math(num_selected, dtype):
    data, batch = inputs(sum(LENGTHS), dtype=dtype), Batch.packed(LENGTHS)
    got = found_of(data, batch, num_selected, row_weights(sum(LENGTHS)))
    exact = [x.double().requires_grad_() for x in data]
    scores = index_scores_reference(*exact[:3], batch, INDEX_SCALE)
    chosen = None if num_selected is None else selection_reference(scores, num_selected)
    want_T = divergence_reference(scores, *exact[3:], chosen, batch, SCALE)
    (want_T * row_weights(sum(LENGTHS))).sum().backward()
    for name, mine, theirs in zip(("D", "q", "k", "weights"), got, [want_T.detach(), *(x.grad for x in exact[:3])]):
        assert relative_error(mine, theirs) < TOLERANCE[dtype], name


@pytest.mark.parametrize("num_selected", SELECTED)
def test_the_size_of_a_stretch_is_rounding(num_selected, monkeypatch):
    data, batch = inputs(sum(LENGTHS), dtype=torch.float64), Batch.packed(LENGTHS)
    weights_T = row_weights(sum(LENGTHS))
    whole = found_of(data, batch, num_selected, weights_T)
    monkeypatch.setattr(divergence, "STRETCH_BYTES", 200_000)
    for mine, theirs in zip(found_of(data, batch, num_selected, weights_T), whole):
        assert relative_error(mine, theirs) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("key_dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("num_selected", SELECTED)
def test_other_documents_change_no_bit(num_selected, key_dtype):
    """The third document of five, beside others of other lengths, before and behind it."""
    lengths, others = (200, 1, 130, 63, 65), (3, 77, 130, 150)
    own, weights_T = inputs(130, seed=1, key_dtype=key_dtype), row_weights(130)
    found = []
    for seed, around in ((2, lengths), (3, others)):
        data, first = inputs(sum(around), seed=seed, key_dtype=key_dtype), sum(around[:2])
        for x, mine in zip(data, own):
            x[first : first + 130] = mine
        all_weights_T = row_weights(sum(around))
        all_weights_T[first : first + 130] = weights_T
        result = found_of(data, Batch.packed(around), num_selected, all_weights_T)
        found.append([x[first : first + 130] for x in result])
    alone = found_of(own, Batch.packed([130]), num_selected, weights_T)
    for one, other, lonely in zip(*found, alone):
        assert torch.equal(one, other) and torch.equal(one, lonely)
        assert one.count_nonzero() > 0


def test_scores_that_tell_what_is_read_owe_nothing():
    """One head of attention whose scores the index heads repeat, as relu(x) - relu(-x)."""
    tokens, batch = 90, Batch.packed([90])
    q, k = (x[:, 0] if x.dim() == 3 else x for x in inputs(tokens, dtype=torch.float64)[3:])
    both_T2K = torch.stack([q, -q], dim=1)
    weights_T2 = torch.tensor([1.0, -1.0], dtype=torch.float64).expand(tokens, 2).contiguous()
    options = {"batch": batch, "selection": None, "scale": 0.3, "attention_scale": 0.3}
    found_T = index_divergence(both_T2K, k, weights_T2, q[:, None], k, **options)
    assert found_T.abs().max() < 1e-12
    assert index_divergence(both_T2K, k, -weights_T2, q[:, None], k, **options)[1:].min() > 1e-6


def test_what_does_not_fit_is_named():
    data, options = inputs(9), {"selection": None, "scale": 1.0, "attention_scale": 1.0}
    with pytest.raises(ConfigError, match="index_divergence: shapes do not fit"):
        index_divergence(*data[:4], data[4][:, :-1], batch=Batch.packed([9]), **options)
    with pytest.raises(ConfigError, match="index_divergence: shapes do not fit"):
        index_divergence(*data, batch=Batch.packed([8]), **options)
    with pytest.raises(RequestError, match="starts at"):
        index_divergence(*data, batch=Batch((9,), (64,)), **options)
