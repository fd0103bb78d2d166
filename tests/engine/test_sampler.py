import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyla.engine.requests.params import SamplingParams
from hyla.engine.sampling import sampler
from hyla.engine.sampling.noise import FEW, NoiseKey, first_words, gumbel, gumbel_of, uniform, words_of, words_of_keys
from hyla.engine.sampling.sampler import draw, filtered, greedy, gumbel_argmax, kept_places, logprobs_of

VOCAB = 37


def logits(seed=0, vocab=VOCAB):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 2.0


def row_of(seed=0, vocab=VOCAB):
    return logits(seed, vocab).double().numpy()


def reference_kept(values, top_k, top_p, min_p):
    """Plain Python: ids that stay, by sorting and adding up."""
    order = sorted(range(len(values)), key=lambda n: (-values[n], n))
    weights = {n: math.exp(values[n] - max(values)) for n in order}
    order = order[: top_k or len(order)]
    total, mass, kept = sum(weights[n] for n in order), 0.0, []
    for n in order:
        kept.append(n)
        mass += weights[n]
        if top_p < 1.0 and mass >= top_p * total:
            break
    return {n for n in kept if weights[n] >= min_p}


@pytest.mark.parametrize("top_k", [0, 1, 5, 36, 400])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-9])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 1.0])
def test_filters_keep_what_a_plain_reference_keeps(top_k, top_p, min_p):
    for seed in range(3):
        scaled = row_of(seed) - row_of(seed).max()
        kept = kept_places(scaled, SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p))
        kept = list(range(VOCAB)) if kept is None else kept.tolist()
        assert kept == sorted(reference_kept(scaled.tolist(), top_k, top_p, min_p))


@given(
    values=st.lists(st.sampled_from([0.0, -0.25, -0.5, -1.0, -3.0, -70.0, -math.inf]), min_size=1, max_size=30),
    top_k=st.integers(0, 32),
    top_p=st.sampled_from([1.0, 0.999, 0.85, 0.31, 0.02]),
)
def test_ties_and_banned_tokens_are_filtered_as_by_the_reference(values, top_k, top_p):
    values = [0.0, *values]
    kept = kept_places(np.array(values), SamplingParams(top_k=top_k, top_p=top_p))
    kept = list(range(len(values))) if kept is None else kept.tolist()
    assert kept == sorted(reference_kept(values, top_k, top_p, 0.0))


def test_filters_over_a_wide_vocabulary_of_like_logits():
    flat = np.linspace(-0.01, 0.0, 5000)
    for params in (SamplingParams(top_p=0.5), SamplingParams(top_p=0.5, top_k=3000), SamplingParams(top_p=0.01)):
        kept = kept_places(flat, params)
        assert set(kept.tolist()) == reference_kept(flat.tolist(), params.top_k, params.top_p, 0.0)


def test_ties_keep_the_lower_ids():
    flat = np.zeros(2000)
    assert kept_places(flat, SamplingParams(top_k=3)).tolist() == [0, 1, 2]
    assert kept_places(flat, SamplingParams(top_k=3, top_p=0.5)).tolist() == [0, 1]


def test_greedy_takes_the_lowest_id_of_a_tie_and_refuses_nan():
    rows = torch.tensor([[1.0, 3.0, 3.0], [float("nan"), 0.0, 1.0], [-float("inf"), -1.0, -2.0]])
    assert greedy(rows) == [1, None, 1]
    assert draw(rows[0].double().numpy(), None, SamplingParams(temperature=0), NoiseKey(0, 0, 0)) == 1


def test_noise_is_keyed_by_seed_choice_and_position():
    base = first_words(NoiseKey(5, 0, 9), 50)
    assert np.array_equal(base, first_words(NoiseKey(5, 0, 9), 50))
    assert np.array_equal(base[:20], first_words(NoiseKey(5, 0, 9), 20))
    for other in (NoiseKey(6, 0, 9), NoiseKey(5, 1, 9), NoiseKey(5, 0, 10)):
        assert not np.isin(base, first_words(other, 4096)).any()


def test_every_seed_of_64_bits_has_noise_of_its_own():
    seeds = (0, 2**63 - 1, 2**63, 2**63 + 1, 2**63 + 2, 2**64 - 1)
    keys = [NoiseKey(seed, 0, 9) for seed in seeds]
    assert len({int(first_words(key, 1)[0]) for key in keys}) == len(seeds)
    assert np.array_equal(words_of_keys(keys, 9), [first_words(key, 9) for key in keys])


@given(ids=st.lists(st.integers(0, 3000), min_size=1, max_size=2 * FEW, unique=True))
def test_a_tokens_noise_does_not_depend_on_which_others_are_kept(ids):
    key, ids = NoiseKey(7, 1, 33), np.array(sorted(ids))
    assert np.array_equal(words_of(key, ids), first_words(key, 3001)[ids])


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
    extremes = np.array([0, (1 << 64) - 1], dtype=np.uint64)
    assert uniform(extremes)[0] > 0.0 and uniform(extremes)[1] < 1.0
    assert np.isfinite(gumbel(extremes)).all()
    for word in extremes.tolist():
        assert gumbel_of(word) == pytest.approx(float(gumbel(np.array([word], dtype=np.uint64))[0]), abs=1e-12)


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 8.0, 1e6])
@pytest.mark.parametrize("count", [1, 40, 600, 5000])
def test_the_quick_search_finds_the_largest_score_of_all(spread, count):
    for position in range(20):
        key, scaled = NoiseKey(3, 0, position), row_of(position, count) * spread
        scaled = scaled - scaled.max()
        words = first_words(key, count).tolist()
        scores = [float(value) + gumbel_of(word) for value, word in zip(scaled, words)]
        assert gumbel_argmax(scaled, None, key) == scores.index(max(scores))
        ids = np.arange(count) * 3 + 1
        words = first_words(key, 3 * count + 1).tolist()
        scores = [float(value) + gumbel_of(words[n]) for value, n in zip(scaled, ids.tolist())]
        assert gumbel_argmax(scaled, ids, key) == scores.index(max(scores))


def test_equal_scores_go_to_the_lower_place(monkeypatch):
    monkeypatch.setattr(sampler, "first_words", lambda key, count: np.full(count, 5, dtype=np.uint64))
    assert gumbel_argmax(np.zeros(2000), None, NoiseKey(0, 0, 0)) == 0
    assert gumbel_argmax(np.repeat([-1.0, 0.0], 700), None, NoiseKey(0, 0, 0)) == 700


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
    row, draws = row_of(4), 2000
    scaled = torch.from_numpy(row) / params.temperature
    kept = sorted(reference_kept(scaled.tolist(), params.top_k, params.top_p, params.min_p))
    weights = torch.softmax(scaled[kept], -1)
    counts = torch.zeros(VOCAB, dtype=torch.float64)
    for position in range(draws):
        counts[draw(row, None, params, NoiseKey(11, 0, position))] += 1
    assert counts.sum() == counts[kept].sum()
    expected = weights * draws
    chi_square = float(((counts[kept] - expected) ** 2 / expected).sum())
    degrees = len(kept) - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def test_filters_do_not_change_the_noise_of_what_they_keep():
    """With no more than the winner and its rivals kept, the winner stays."""
    for position in range(50):
        row, key = row_of(5, 3000), NoiseKey(1, 0, position)
        winner = draw(row, None, SamplingParams(), key)
        rivals = np.array(sorted({winner, *range(position, 3000, 41)}))
        assert draw(row[rivals], rivals, SamplingParams(), key) == winner


def test_a_tiny_temperature_is_greedy_and_a_huge_one_is_not():
    row = row_of(2)
    assert draw(row, None, SamplingParams(temperature=1e-300), NoiseKey(3, 0, 1)) == int(row.argmax())
    drawn = {draw(row, None, SamplingParams(temperature=1e300), NoiseKey(3, 0, n)) for n in range(400)}
    assert len(drawn) == VOCAB


def test_logprobs_are_those_of_the_whole_distribution():
    row = logits(3)
    (entry,) = logprobs_of(row[None], [5], 4)
    exact = torch.log_softmax(row.double(), -1)
    assert entry.logprob == pytest.approx(float(exact[5]), abs=1e-6)
    assert [token for token, _ in entry.top] == exact.argsort(descending=True)[:4].tolist()
    assert logprobs_of(row[None], [5], 0)[0].top == ()


def test_a_rows_logprobs_are_the_same_alone_and_among_others():
    rows = torch.stack([logits(n, 301) for n in range(9)])
    together = logprobs_of(rows, range(9), 3)
    assert together == [logprobs_of(rows[n : n + 1], [n], 3)[0] for n in range(9)]


def test_a_rank_is_the_place_among_all_ids_lower_ids_first_among_equals():
    logits = torch.tensor([[0.5, 2.0, 2.0, -1.0, 2.0, 0.5], [0.0, 0.0, 0.0, 3.0, 0.0, 0.0]])
    for token in range(6):
        entries = logprobs_of(logits, [token, token], 6)
        for row, entry in zip(logits.tolist(), entries):
            order = sorted(range(6), key=lambda other: (-row[other], other))
            assert entry.rank == order.index(token) + 1
            assert [other for other, _ in entry.top] == order


def test_two_logits_that_round_to_one_log_probability_keep_their_ranks():
    # Their log-probabilities are near -20, where fp32 is coarser than near 1.
    logits = torch.tensor([[1.0, 1.0 + 2**-23, 21.0]])
    (entry,) = logprobs_of(logits, [1], 3)
    assert entry.top[1][1] == entry.top[2][1] == entry.logprob
    assert (entry.rank, [other for other, _ in entry.top]) == (2, [2, 1, 0])


@pytest.mark.parametrize("temperature", [1e308, 1e300, 1e-300])
def test_temperatures_at_the_ends_of_what_numbers_hold_are_filtered_too(temperature):
    params = SamplingParams(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
    values = np.array([0.5, -3.0, 2.0, -np.inf, 1.9])
    scaled, ids = filtered(values, None, params)
    with np.errstate(over="ignore"):
        expected = reference_kept(((values - 2.0) / temperature).tolist(), 3, 0.9, 0.1)
    assert ids.tolist() == sorted(expected) and scaled.max() == 0.0
