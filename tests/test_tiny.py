"""Read this first: ten short tests that show what Hyla is and what always holds."""

import pytest
import torch
from tiny_model import tiny_model

import hyla
from hyla.caches import Cache
from hyla.ops.batch import Batch
from hyla.ops.exact.cross_entropy import cross_entropy
from hyla.ops.kda import kda
from hyla.ops.kda.reference import kda_reference

TOKENS = [7, 3, 250, 11, 42] * 14  # 70 tokens: one whole chunk of 64 and six more


@pytest.fixture(scope="module")
def model():
    return tiny_model().requires_grad_(False)


def cached_logits(model, cache, sequence, tokens):
    """Feed tokens to one cached sequence and return their logits."""
    hidden = model(torch.tensor(tokens), cache.batch([(sequence, len(tokens))]), cache.layers)
    cache.commit(sequence, len(tokens))
    return model.head_logits(hidden)


def new_cache(model):
    return Cache(model.cache_specs(), num_pages=8, num_slots=3)


def test_a_batch_is_flat_and_knows_its_positions():
    batch = Batch.packed([3, 1, 2])
    assert batch.num_tokens == 6
    assert batch.positions_T.tolist() == [0, 1, 2, 0, 0, 1]


def test_the_delta_rule_remembers_what_was_written_and_corrects_it():
    """Write value 5 under a key, then 8 under the same key: the memory answers 8, not 13."""
    key = torch.tensor([1.0, 0.0, 0.0]).expand(2, 1, 3)
    values = torch.tensor([5.0, 8.0]).view(2, 1, 1)
    no_decay, full_strength = torch.zeros(2, 1, 3), torch.ones(2, 1)
    answers, _ = kda_reference(key, key, values, no_decay, full_strength, lengths=[2], scale=1.0)
    assert answers.flatten().tolist() == [5.0, 8.0]


def test_the_chunked_form_computes_the_recurrence():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.nn.functional.normalize(torch.randn(70, 2, 16, generator=generator), dim=-1) for _ in range(2))
    v, decay = torch.randn(70, 2, 24, generator=generator), -torch.rand(70, 2, 16, generator=generator)
    beta = torch.rand(70, 2, generator=generator)
    expected, _ = kda_reference(q, k, v, decay, beta, lengths=[70], scale=0.25)
    found = kda(q, k, v, decay, beta, batch=Batch.packed([70]), scale=0.25)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_prompt_has_the_same_bits_alone_and_among_others(model):
    (alone,) = model.logits([TOKENS])
    _, among, _ = model.logits([[9, 9, 9], TOKENS, [1]])
    assert torch.equal(alone, among)


def test_reading_in_pieces_has_the_same_bits_as_reading_at_once(model):
    (whole,) = model.logits([TOKENS])
    cache = new_cache(model)
    sequence = cache.open()
    pieces = [cached_logits(model, cache, sequence, part) for part in (TOKENS[:1], TOKENS[1:66], TOKENS[66:])]
    assert torch.equal(torch.cat(pieces), whole)


def test_decoding_token_by_token_has_the_same_bits(model):
    (whole,) = model.logits([TOKENS])
    cache = new_cache(model)
    sequence = cache.open()
    rows = [cached_logits(model, cache, sequence, [token]) for token in TOKENS]
    assert torch.equal(torch.cat(rows), whole)


def test_rejected_tokens_leave_no_trace(model):
    """What speculative decoding needs: compute three more tokens, keep none, go on as if they had never been."""
    cache = new_cache(model)
    sequence = cache.open()
    cached_logits(model, cache, sequence, TOKENS[:60])
    model(torch.tensor([99, 98, 97]), cache.batch([(sequence, 3)]), cache.layers)
    cache.commit(sequence, 0)
    rest = cached_logits(model, cache, sequence, TOKENS[60:])
    assert torch.equal(rest, model.logits([TOKENS])[0][60:])


def test_a_delta_layer_keeps_one_state_and_an_attention_layer_keeps_every_token(model):
    kda_spec, mla_spec = model.cache_specs()
    assert kda_spec.bytes_per_token == 0 < kda_spec.bytes_per_sequence
    assert mla_spec.bytes_per_sequence == 0
    assert mla_spec.bytes_per_token == (24 + 8) * 4  # latent and shared key, fp32


def test_a_saved_model_is_the_same_model(model, tmp_path):
    hyla.save(model, tmp_path / "folder")
    loaded = hyla.load(tmp_path / "folder")
    assert torch.equal(loaded.logits([TOKENS])[0], model.logits([TOKENS])[0])


def test_one_gradient_step_lowers_the_loss():
    model = tiny_model()
    tokens, targets = torch.tensor(TOKENS[:-1]), torch.tensor(TOKENS[1:])

    def loss():
        hidden = model(tokens, Batch.packed([len(tokens)]))
        return cross_entropy(hidden, model.head.weight, targets, chunk_rows=32)

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    assert loss() < before
