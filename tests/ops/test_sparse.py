"""The lightning indexer and sparse attention: against float64, ties, and one result whatever way the rows arrive."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyla.errors import ConfigError, RequestError
from hyla.grid import CHUNK
from hyla.ops.batch import Batch
from hyla.ops.sparse import cost, pytorch, select_keys, sparse_attention
from hyla.ops.sparse.reference import index_scores_reference, selection_reference, sparse_attention_reference

RELATIVE_TOLERANCE = 1e-5
"""fp32 outputs and gradients against float64; measured: below 5e-7."""

INDEX_HEADS, INDEX_DIM, HEADS, KEY_DIM, VALUE_DIM = 6, 20, 5, 28, 22
INDEX_SCALE, SCALE = 0.2, 0.3
LENGTHS = (200, 1, 64, 63, 65)
NAMES = ("index q", "index k", "index weights", "q", "k")


def inputs(tokens, *, seed=0, dtype=torch.float32, key_dtype=None):
    """Index queries, keys and weights, then queries and keys."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(INDEX_HEADS, INDEX_DIM), (INDEX_DIM,), (INDEX_HEADS,), (HEADS, KEY_DIM), (KEY_DIM,)]
    drawn = [torch.randn(tokens, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    dtypes = [dtype, key_dtype or dtype, dtype, dtype, key_dtype or dtype]
    return [x.to(kind) for x, kind in zip(drawn, dtypes)]


def run(data, batch, num_selected, caches=(None, None)):
    """The selection and the attention of one call."""
    q_index, k_index, weights, q, k = data
    selection = select_keys(
        q_index, k_index, weights, batch=batch, cache=caches[0], scale=INDEX_SCALE, num_selected=num_selected
    )
    o = sparse_attention(q, k, selection, batch=batch, cache=caches[1], scale=SCALE, value_dim=VALUE_DIM)
    return selection, o


def reference(data, batch, num_selected):
    q_index, k_index, weights, q, k = (x.double() for x in data)
    scores = index_scores_reference(q_index, k_index, weights, batch, INDEX_SCALE)
    chosen = selection_reference(scores, num_selected)
    return scores, chosen, sparse_attention_reference(q, k, chosen, batch, SCALE, VALUE_DIM)


def chosen_positions(selection):
    return [row[row >= 0].tolist() for row in selection.positions_TS]


def relative_error(got, want):
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def new_caches(num_pages, dtype=torch.float32):
    """Index pages and key pages, with junk wherever nothing was written (but on the null page)."""
    caches = [torch.full((num_pages, *shape, CHUNK), 3.0, dtype=dtype) for shape in ((INDEX_DIM,), (1, KEY_DIM))]
    for cache in caches:
        cache[0] = 0
    return caches


@pytest.mark.parametrize("num_selected", [1, 24, 64, 70, 500])
def test_selection_and_outputs_equal_the_float64_reference(num_selected):
    data, batch = inputs(sum(LENGTHS)), Batch.packed(LENGTHS)
    selection, o = run(data, batch, num_selected)
    _, chosen, want = reference(data, batch, num_selected)
    assert chosen_positions(selection) == chosen
    assert [len(row) for row in chosen] == list(selection.counts)
    assert selection.positions_TS.shape[1] % CHUNK == 0
    assert relative_error(o, want) < RELATIVE_TOLERANCE


def test_a_context_of_no_more_than_the_selection_is_attended_to_whole():
    data, batch = inputs(70), Batch.packed([70])
    selection, o = run(data, batch, 70)
    assert chosen_positions(selection) == [list(range(t + 1)) for t in range(70)]
    q, k = data[3:]
    scores = torch.einsum("thk,sk->hts", q.double(), k.double()) * SCALE
    scores = scores.masked_fill(torch.ones(70, 70).triu(1).bool(), -torch.inf)
    assert relative_error(o, torch.einsum("hts,sv->thv", scores.softmax(-1), k[:, :VALUE_DIM].double())) < 1e-5


def test_equal_scores_go_to_the_lower_position():
    data, batch = inputs(150), Batch.packed([150])
    data[0].zero_()  # every score is exactly zero
    selection, _ = run(data, batch, 24)
    assert chosen_positions(selection) == [list(range(min(t + 1, 24))) for t in range(150)]


def test_ties_among_exact_zeros_are_broken_as_in_the_reference():
    """One head: relu makes about half of the scores exactly zero, and a negative weight puts the others below them."""
    tokens, batch = 180, Batch.packed([180])
    q, k, weights, *_ = inputs(tokens)
    data = (q[:, :1], k, weights[:, :1])
    scores = index_scores_reference(*(x.double() for x in data), batch, INDEX_SCALE)
    assert sum(row.count_nonzero() < len(row) - 24 for row in scores) > 50
    selection = select_keys(*data, batch=batch, cache=None, scale=INDEX_SCALE, num_selected=24)
    assert chosen_positions(selection) == selection_reference(scores, 24)


def arrive(data, pieces, num_selected, pages, dtype=torch.float32):
    """Selections and outputs of one sequence that arrives in pieces."""
    caches, found, start = new_caches(max(pages) + 2, dtype), [], 0
    for piece in pieces:
        batch = Batch((piece,), (start,), (1,), (pages,))
        selection, o = run([x[start : start + piece] for x in data], batch, num_selected, caches)
        found.append((chosen_positions(selection), o))
        start += piece
    return [row for rows, _ in found for row in rows], torch.cat([o for _, o in found])


@pytest.mark.parametrize("key_dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("num_selected", [24, 70, 500])
@settings(max_examples=8)
@given(data=st.data())
def test_pieces_of_any_size_give_the_bits_of_the_whole(num_selected, key_dtype, data):
    tokens = data.draw(st.integers(1, 180))
    pieces, left = [], tokens
    while left:
        pieces.append(data.draw(st.integers(1, min(left, data.draw(st.sampled_from([1, 5, 90]))))))
        left -= pieces[-1]
    rows = inputs(tokens, key_dtype=key_dtype)
    selection, o = run(rows, Batch.packed([tokens]), num_selected)
    pages = (3, 1, 4)[: -(-tokens // CHUNK)]
    chosen, pieced = arrive(rows, pieces, num_selected, pages, key_dtype)
    assert chosen == chosen_positions(selection)
    assert torch.equal(pieced, o)


def test_a_mixed_batch_changes_no_bit():
    """Prefill, a later piece and two decoded rows side by side, each as it would be alone."""
    starts, lengths = (0, 70, 129, 0), (90, 75, 1, 1)
    pages = ((1, 5), (2, 7, 9), (3, 6, 8), (4,))
    whole = [inputs(start + length, seed=n) for n, (start, length) in enumerate(zip(starts, lengths))]
    caches = new_caches(11)
    for n, (start, data) in enumerate(zip(starts, whole)):
        if start:
            run([x[:start] for x in data], Batch((start,), (0,), (n + 1,), (pages[n],)), 24, caches)
    batch = Batch(lengths, starts, (1, 2, 3, 4), pages)
    _, o = run(
        [torch.cat([data[i][start:] for data, start in zip(whole, starts)]) for i in range(5)], batch, 24, caches
    )
    for part, data, length in zip(o.split(lengths), whole, lengths):
        _, alone = run(data, Batch.packed([len(data[0])]), 24)
        assert torch.equal(part, alone[-length:])


def test_the_size_of_a_step_changes_no_bit(monkeypatch):
    data, batch = inputs(sum(LENGTHS)), Batch.packed(LENGTHS)
    _, o = run(data, batch, 70)
    monkeypatch.setattr(pytorch, "STEP_BYTES", 1)
    assert torch.equal(run(data, batch, 70)[1], o)


def test_an_index_key_in_the_cache_decides_what_is_read():
    """The mutation check: a changed index key changes the selection, a changed unselected key nothing."""
    data, pages = inputs(130), (1, 2, 3)
    caches = new_caches(5)
    run([x[:129] for x in data], Batch((129,), (0,), (1,), (pages,)), 24, caches)
    last, batch = [x[129:] for x in data], Batch((1,), (129,), (1,), (pages,))
    selection, o = run(last, batch, 24, caches)
    outside = next(position for position in range(130) if position not in chosen_positions(selection)[0])
    caches[1][pages[outside // CHUNK], 0, :, outside % CHUNK] += 1.0
    assert torch.equal(run(last, batch, 24, caches)[1], o)
    caches[0][pages[0]] *= -1.0
    changed, other = run(last, batch, 24, caches)
    assert chosen_positions(changed) != chosen_positions(selection) and not torch.equal(other, o)


@pytest.mark.parametrize("num_selected", [24, 70])
def test_gradients_equal_those_of_the_float64_reference(num_selected, monkeypatch):
    monkeypatch.setattr(pytorch, "STEP_BYTES", 1 << 17)
    lengths = [100, 50]
    data, batch = inputs(150), Batch.packed(lengths)
    for x in data:
        x.requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in data]
    _, o = run(data, batch, num_selected)
    assert torch.equal(o, run([x.detach() for x in data], batch, num_selected)[1])
    _, _, want = reference(exact, batch, num_selected)
    loss = torch.randn(want.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    got = torch.autograd.grad((o * loss.float()).sum(), data, allow_unused=True)
    wanted = torch.autograd.grad((want * loss).sum(), exact, allow_unused=True)
    for name, grad, want_grad in zip(NAMES, got, wanted):
        if "index" in name:  # the selection is a constant
            assert grad is None and want_grad is None
        else:
            assert relative_error(grad, want_grad) < RELATIVE_TOLERANCE, name


def test_gradcheck_over_a_block_boundary():
    tokens = 68
    data, batch = inputs(tokens, dtype=torch.float64), Batch.packed([tokens])
    selection, _ = run(data, batch, 66)

    def corner(q, k):
        o = sparse_attention(q, k, selection, batch=batch, cache=None, scale=SCALE, value_dim=VALUE_DIM)
        return o[[1, 63, 64, 67], :, ::7]

    assert torch.autograd.gradcheck(corner, [x.requires_grad_() for x in data[3:]], fast_mode=True)


def test_wrong_shapes_and_missing_pages_are_refused():
    data, batch = inputs(70), Batch.packed([70])
    with pytest.raises(ConfigError, match=r"shapes do not fit: q \[70, 6, 20\], k \[69, 20\]"):
        run([data[0], data[1][:69], *data[2:]], batch, 24)
    with pytest.raises(ConfigError, match="value_dim 29"):
        selection, _ = run(data, batch, 24)
        sparse_attention(*data[3:], selection, batch=batch, cache=None, scale=SCALE, value_dim=29)
    with pytest.raises(ConfigError, match=r"index key pages are .*bfloat16"):
        run(data, Batch((70,), (0,), (1,), ((1, 2),)), 24, new_caches(4, torch.bfloat16))
    with pytest.raises(RequestError, match="needs a cache with the earlier index key pages"):
        run([x[:1] for x in data], Batch((1,), (69,), (1,), ((1, 2),)), 24)


def test_costs_count_what_is_read():
    assert cost.index_flops(0, 3, 64, 128) == (1 + 2 + 3) * 64 * 258
    assert cost.attention_flops(2, 3, 4, 10, 6, num_selected=4) == 2 * (3 + 4 + 4) * 4 * 16
    assert cost.cache_bytes_per_token(128, 576, 2) == 1408
    assert cost.decode_bytes(100, 128, 576, 2048, 2) == (128 * 128 + 100 * 576 + 704) * 2
    assert cost.selection_bytes(10, 100, 2048) == 10 * 128 * 4


@pytest.mark.parametrize("num_selected", [24, 70, 500])
def test_other_documents_change_no_bit_of_a_gradient(num_selected):
    """The third document of some, beside longer and shorter ones, and alone."""
    own, found = inputs(130, seed=1), []
    grad = torch.randn(130, HEADS, VALUE_DIM, generator=torch.Generator().manual_seed(6))
    for around, place in (((200, 1, 130, 63, 65), 2), ((3, 77, 130, 450), 2), ((130,), 0)):
        data, first = inputs(sum(around), seed=len(around)), sum(around[:place])
        for x, mine in zip(data, own):
            x[first : first + 130] = mine
        q, k = (x.requires_grad_() for x in data[3:])
        _, o = run(data, Batch.packed(around), num_selected)
        (o[first : first + 130] * grad).sum().backward()
        found.append([x.grad[first : first + 130] for x in (q, k)])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other))
