"""The pool under real mixers: going back and copying leave every later bit as it would have been."""

import pytest
import torch

from hyla.caches import Cache
from hyla.errors import HylaError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model


@pytest.fixture(scope="module", params=["kimi_linear", "qwen3_next", "bailing_hybrid", "nemotron_h"])
def model(request):
    config = family_of(request.param).tiny
    config = config.model_copy(update={"sublayers": config.sublayers[:2] + config.sublayers[-2:]})
    return initialize(Model(config), 5, std=0.3).eval()


def tokens_of(length, seed=0):
    return torch.randint(0, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def pool(model, num_slots=3):
    return Cache(model.cache_specs(), num_pages=12, num_slots=num_slots, num_snapshots=1)


def extend(model, cache, sequence, tokens, commit=None):
    """Hidden states of new tokens."""
    batch = cache.batch([(sequence, len(tokens))])
    with torch.inference_mode():
        hidden = model(torch.tensor(tokens), batch, cache.layers)
    cache.commit(sequence, len(tokens) if commit is None else commit)
    return hidden


def alone(model, tokens, num_last):
    """The last hidden states of a sequence that was never touched."""
    cache = pool(model)
    return extend(model, cache, cache.open(), tokens)[-num_last:]


@pytest.mark.parametrize("written", [9, 16, 18, 47, 63, 70, 95])
def test_after_going_back_as_far_as_allowed_other_tokens_get_their_own_bits(model, written):
    cache = pool(model)
    sequence = cache.open()
    first = tokens_of(written)
    extend(model, cache, sequence, first[: written // 2])
    for token in first[written // 2 :]:
        extend(model, cache, sequence, [token])
    oldest = cache.oldest_length(sequence)
    assert oldest < written
    cache.rollback(sequence, oldest)
    other = tokens_of(40, seed=1)
    hidden = torch.cat([extend(model, cache, sequence, other[:3]), extend(model, cache, sequence, other[3:4])])
    hidden = torch.cat([hidden, extend(model, cache, sequence, other[4:])])
    assert torch.equal(hidden, alone(model, first[:oldest] + other, 40))


def test_rejected_rows_of_one_call_leave_no_trace(model):
    cache = pool(model)
    sequence = cache.open()
    prompt, drafts, other = tokens_of(50), tokens_of(8, seed=2), tokens_of(20, seed=3)
    extend(model, cache, sequence, prompt)
    extend(model, cache, sequence, drafts, commit=3)
    hidden = extend(model, cache, sequence, other)
    assert torch.equal(hidden, alone(model, prompt + drafts[:3] + other, 20))


def test_rows_past_a_closed_chunk_cannot_be_rejected_before_it(model):
    cache = pool(model)
    sequence = cache.open()
    extend(model, cache, sequence, tokens_of(60))
    with pytest.raises(HylaError, match="length 62 cannot be restored"):
        extend(model, cache, sequence, tokens_of(8), commit=2)


@pytest.mark.parametrize("length", [1, 37, 64, 100, 129])
def test_a_fork_goes_on_with_the_same_bits_as_the_original(model, length):
    cache = pool(model)
    sequence = cache.open()
    prompt, more = tokens_of(length), tokens_of(30, seed=4)
    extend(model, cache, sequence, prompt)
    fork = cache.fork(sequence)
    hidden = extend(model, cache, sequence, more)
    cache.close(sequence)
    # Another sequence takes the same slot and pages in between.
    extend(model, cache, cache.open(), tokens_of(150, seed=6))
    assert torch.equal(extend(model, cache, fork, more), hidden)
    cache.ledger.check()


@pytest.mark.parametrize("length", [64, 100, 129])
def test_a_resumed_sequence_goes_on_with_the_same_bits_as_the_original(model, length):
    cache = pool(model)
    sequence = cache.open()
    prompt, more = tokens_of(length), tokens_of(30, seed=4)
    extend(model, cache, sequence, prompt)
    units = cache.ledger.snapshots.take(cache.has_states)
    checkpoint = cache.checkpoint(sequence, *units or [None])
    cache.ledger.snapshots.pass_on(units)
    pages = sequence.pages[: length // 64]
    cache.ledger.pages.keep(pages)
    hidden = extend(model, cache, sequence, more)
    cache.close(sequence)
    extend(model, cache, cache.open(), tokens_of(150, seed=6))
    resumed = cache.resume(pages, checkpoint)
    assert torch.equal(extend(model, cache, resumed, prompt[resumed.length :] + more)[-30:], hidden)
    cache.drop_checkpoint(checkpoint)
    cache.ledger.pages.drop(pages)
    cache.ledger.check()
