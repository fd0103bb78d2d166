import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import tiny_store

from hyla.data.batch_sizes import BatchSizes
from hyla.data.packing import Packer, TokenStore
from hyla.errors import ConfigError


def packer(seed=1, batch_tokens=97, max_document_tokens=30):
    return Packer(tiny_store(), BatchSizes(batch_tokens), max_document_tokens=max_document_tokens, seed=seed)


def flat_pairs(rows):
    return list(zip(rows.tokens_T.tolist(), rows.targets_T.tolist()))


def test_every_step_has_the_same_number_of_rows_and_pieces_within_the_limit():
    made = packer()
    for step in range(2 * made.steps_per_epoch):
        rows = made.step(step)
        assert rows.tokens_T.shape == rows.targets_T.shape == (97,)
        assert sum(rows.lengths) == 97
        assert max(rows.lengths) <= 30


def test_an_epoch_reads_no_row_twice_and_misses_less_than_one_step():
    made = packer()
    store = tiny_store()
    everything = sorted(flat_pairs(store.rows(store.pieces(1 << 30))))
    read = sorted(pair for step in range(made.steps_per_epoch) for pair in flat_pairs(made.step(step)))
    left = list(everything)
    for pair in read:
        left.remove(pair)
    assert len(left) == made.num_rows - 97 * made.steps_per_epoch < 97


def test_targets_are_the_next_tokens_of_the_same_document():
    store = TokenStore.from_lists([[0, 1, 2, 3, 0], [0, 9, 0]])
    rows = store.rows(store.pieces(3))
    assert rows.lengths == (3, 1, 2)
    assert rows.tokens_T.tolist() == [0, 1, 2, 3, 0, 9]
    assert rows.targets_T.tolist() == [1, 2, 3, 0, 9, 0]


@settings(max_examples=20)
@given(st.integers(0, 40), st.integers(0, 2**31 - 1))
def test_a_step_is_a_function_of_seed_and_number(step, seed):
    walked, jumped = packer(seed), packer(seed)
    for earlier in range(step):
        walked.step(earlier)
    one, other = walked.step(step), jumped.step(step)
    assert one.lengths == other.lengths
    assert torch.equal(one.tokens_T, other.tokens_T)
    assert torch.equal(one.targets_T, other.targets_T)


def test_epochs_and_seeds_have_their_own_orders():
    made = packer()
    first = [made.step(step).tokens_T for step in range(made.steps_per_epoch)]
    second = [made.step(step + made.steps_per_epoch).tokens_T for step in range(made.steps_per_epoch)]
    other = [packer(seed=2).step(step).tokens_T for step in range(made.steps_per_epoch)]
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert not torch.equal(torch.cat(first), torch.cat(other))


def test_too_little_text_for_one_step_is_an_error():
    with pytest.raises(ConfigError, match="less than one step of batch_tokens = 100000"):
        packer(batch_tokens=100_000)
