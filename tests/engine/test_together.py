"""Rows that are done at once give what they give one by one."""

import numpy as np
import pytest
import torch

from hyla.engine import SamplingParams
from hyla.engine.sampling import together
from hyla.engine.sampling.choosing import Chooser
from hyla.engine.sampling.noise import NoiseKey, first_words, words_of_keys
from hyla.engine.sampling.together import drawn_rows, tokens_of_rows

PROMPT = (3, 4, 7)


def test_words_of_many_keys_are_those_of_each():
    keys = [NoiseKey(7, 0, 5), NoiseKey(2**63 + 12_345, 127, 2**40), NoiseKey(2**63 - 1, 1, 3), NoiseKey(0, 3, 0, 2, 6)]
    found = words_of_keys(keys, 13)
    assert found.shape == (4, 13)
    assert all((row == first_words(key, 13)).all() for row, key in zip(found, keys))


def rows_of(vocab: int, count: int, spread: float) -> torch.Tensor:
    """Some with ties, some with tokens that are impossible."""
    logits_RV = torch.randn(count, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    logits_RV[1] = logits_RV[1].round()
    logits_RV[2] = 1.5
    logits_RV[3, ::2] = -torch.inf
    return logits_RV


@pytest.mark.parametrize("vocab", [2, 257, 513, 1031, 70_001])
@pytest.mark.parametrize("spread", [0.3, 4.0, 60.0])
def test_rows_together_give_the_tokens_and_log_probabilities_of_each(vocab, spread):
    """Small and large vocabularies, several blocks of rows, temperatures and wishes that differ."""
    logits_RV = rows_of(vocab, 12, spread)
    wishes = [
        {"temperature": (0.0, 1.0, 0.7, 1e-6, 3.0)[n % 5], "logprobs": (None, 0, 2)[n % 3], "seed": n, "choice": n % 2}
        for n in range(12)
    ]
    choosers = [chooser_of(**wish) for wish in wishes]
    rows = [chooser.row(9 + n) if n != 4 else None for n, chooser in enumerate(choosers)]
    found = tokens_of_rows(logits_RV, rows)
    for n, (row_V, chooser, one) in enumerate(zip(logits_RV, choosers, found)):
        assert chooser.is_free
        if n == 4:
            assert one is None
            continue
        token = chooser.choose(row_V, 9 + n)
        assert token is not None and one is not None and one.token == token
        assert one.logprob == chooser.logprob(row_V, token)
    assert {one.token for one in found if one is not None} - {0} or vocab == 2


def chooser_of(*, choice=0, **fields) -> Chooser:
    wants = fields.get("logprobs") is not None and fields["temperature"] > 0.0
    return Chooser(SamplingParams(sampled_logprobs=wants, **fields), PROMPT, choice=choice)


def test_a_row_without_numbers_gives_no_token_and_its_neighbours_do():
    logits_RV = rows_of(40, 5, 2.0)
    keys = [NoiseKey(1, 0, n) for n in range(5)]
    expected = drawn_rows(logits_RV.numpy(), np.ones(5), keys)
    for broken in (torch.nan, torch.inf):
        logits_RV[1, 7] = logits_RV[4] = broken
        found = drawn_rows(logits_RV.numpy(), np.ones(5), keys)
        assert found == [expected[0], None, expected[2], expected[3], None]
    everything = torch.full((2, 40), torch.nan)
    assert drawn_rows(everything.numpy(), np.ones(2), keys[:2]) == [None, None]


def test_sums_that_are_near_are_compared_by_scalars(monkeypatch):
    """With a margin that takes all in, nothing but the scalar functions decides; the tokens are the same."""
    logits_RV, keys = rows_of(97, 6, 2.0).numpy(), [NoiseKey(5, 0, n) for n in range(6)]
    expected = drawn_rows(logits_RV, np.full(6, 0.8), keys)
    monkeypatch.setattr(together, "MARGIN", 1e9)
    assert drawn_rows(logits_RV, np.full(6, 0.8), keys) == expected


@pytest.mark.parametrize(
    "fields",
    [{"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"logit_bias": {1: 0.1}}],
)
def test_what_shapes_a_row_keeps_it_alone(fields):
    assert chooser_of(temperature=0.7).is_free and chooser_of(temperature=0.0, top_k=3).is_free
    assert not chooser_of(temperature=0.7, **fields).is_free
