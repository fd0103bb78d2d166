import math

import numpy as np
import pytest
import torch

from hyla.engine.noise import gumbel_noise, uniform_noise
from hyla.engine.params import SamplingParams
from hyla.engine.sampler import greedy, kept_tokens, logprob_of, sample

VOCAB = 37


def logits(seed=0, vocab=VOCAB):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 2.0


def reference_kept(values, top_k, top_p, min_p):
    """Plain Python: ids that stay, by sorting and adding up."""
    order = sorted(range(len(values)), key=lambda n: (-values[n], n))
    weights = {n: math.exp(values[n] - max(values)) for n in order}
    order = order[: top_k or len(order)]
    total, mass, kept = sum(weights[n] for n in order), 0.0, []
    for n in order:
        kept.append(n)
        mass += weights[n]
        if mass >= top_p * total:
            break
    return {n for n in kept if weights[n] >= min_p}


@pytest.mark.parametrize("top_k", [0, 1, 5, 36, 400])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-9])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_filters_keep_what_a_plain_reference_keeps(top_k, top_p, min_p):
    for seed in range(3):
        scaled = logits(seed).double()
        kept = kept_tokens(scaled, SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p))
        kept = set(range(VOCAB)) if kept is None else set(kept.tolist())
        assert kept == reference_kept(scaled.tolist(), top_k, top_p, min_p)


def test_top_p_over_a_wide_vocabulary_goes_past_the_first_candidates():
    flat = torch.linspace(0.0, 0.01, 5000, dtype=torch.float64)
    for params in (SamplingParams(top_p=0.5), SamplingParams(top_p=0.5, top_k=3000), SamplingParams(top_p=0.01)):
        kept = kept_tokens(flat, params)
        assert set(kept.tolist()) == reference_kept(flat.tolist(), params.top_k, params.top_p, 0.0)


def test_ties_keep_the_lower_ids():
    flat = torch.zeros(2000, dtype=torch.float64)
    assert kept_tokens(flat, SamplingParams(top_k=3)).tolist() == [0, 1, 2]
    assert kept_tokens(flat, SamplingParams(top_k=3, top_p=0.5)).tolist() == [0, 1]


def test_greedy_takes_the_lowest_id_of_a_tie_and_refuses_nan():
    rows = torch.tensor([[1.0, 3.0, 3.0], [float("nan"), 0.0, 1.0], [-float("inf"), -1.0, -2.0]])
    assert greedy(rows) == [1, None, 1]
    assert sample(rows[1], SamplingParams(), seed=0, choice=0, position=0) is None


def test_noise_is_keyed_by_seed_choice_and_position():
    base = gumbel_noise(5, 0, 9, 50)
    assert torch.equal(base, gumbel_noise(5, 0, 9, 50))
    assert torch.equal(base[:20], gumbel_noise(5, 0, 9, 20))
    for other in ((6, 0, 9), (5, 1, 9), (5, 0, 10)):
        assert not torch.equal(base, gumbel_noise(*other, 50))


def test_noise_of_neighbouring_positions_does_not_overlap():
    one, two = uniform_noise(1, 0, 0, 4096).tolist(), uniform_noise(1, 0, 1, 4096).tolist()
    assert not set(one) & set(two)


def test_noise_is_the_published_generator():
    # Known-answer vector of Philox-4x64-10 (Random123, kat_vectors): all-ones counter and key.
    ones = (1 << 64) - 1
    words = np.random.Philox(key=[ones, ones], counter=[ones - 1, ones, ones, ones]).random_raw(4)
    assert [f"{word:016x}" for word in words.tolist()] == [
        "87b092c3013fe90b",
        "438c3c67be8d0224",
        "9cc7d7c69cd777b6",
        "a09caebf594f0ba0",
    ]


def test_noise_never_reaches_its_limits():
    noise = uniform_noise(0, 0, 0, 1 << 16)
    assert noise.min() > 0.0 and noise.max() < 1.0
    assert torch.isfinite(gumbel_noise(0, 0, 0, 1 << 16)).all()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.7),
        SamplingParams(temperature=1.5, top_k=6),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1, top_k=9),
    ],
)
def test_frequencies_follow_the_filtered_distribution(params):
    row, draws = logits(4), 2000
    scaled = row.double() / params.temperature
    kept = sorted(reference_kept(scaled.tolist(), params.top_k, params.top_p, params.min_p))
    weights = torch.softmax(scaled[kept], -1)
    counts = torch.zeros(VOCAB, dtype=torch.float64)
    for position in range(draws):
        counts[sample(row, params, seed=11, choice=0, position=position)] += 1
    assert counts.sum() == counts[kept].sum()
    expected = weights * draws
    chi_square = float(((counts[kept] - expected) ** 2 / expected).sum())
    degrees = len(kept) - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def test_a_tiny_temperature_is_greedy():
    row = logits(2)
    params = SamplingParams(temperature=1e-300)
    assert sample(row, params, seed=3, choice=0, position=1) == greedy(row[None])[0]


def test_banned_ids_are_never_drawn():
    row = logits(1)
    best = greedy(row[None])[0]
    assert sample(row, SamplingParams(temperature=0), seed=0, choice=0, position=0, banned=(best,)) != best
    drawn = {sample(row, SamplingParams(), seed=0, choice=0, position=n, banned=(best,)) for n in range(200)}
    assert best not in drawn


def test_logprobs_are_those_of_the_whole_distribution():
    row = logits(3)
    entry = logprob_of(row, 5, 4)
    exact = torch.log_softmax(row.double(), -1)
    assert entry.logprob == pytest.approx(float(exact[5]), abs=1e-6)
    assert [token for token, _ in entry.top] == exact.argsort(descending=True)[:4].tolist()
    assert logprob_of(row, 5, 0).top == ()
