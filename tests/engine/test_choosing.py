"""The choosing of tokens, against a plain reference that follows the documented order."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyla.engine.requests.params import SamplingParams
from hyla.engine.sampling.choosing import NOT_NUMBERS, Chooser
from hyla.engine.sampling.noise import NoiseKey, first_words, gumbel_of
from hyla.engine.sampling.sampler import greedy

VOCAB, STOP = 29, 28
PROMPT = [3, 4, 4, 7]
TOKENS = st.integers(0, VOCAB - 1)


def logits(seed, vocab=VOCAB):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 2.0


def chooser_of(*, prompt=PROMPT, output=(), choice=0, stop_ids=(STOP,), **fields):
    chooser = Chooser(SamplingParams(seed=5, **fields), prompt, choice=choice, stop_ids=stop_ids)
    for token in output:
        chooser.advance(token)
    return chooser


def reference_row(row, params, prompt, output):
    """Logits after penalties and bias, as floats."""
    x = [float(value) for value in row]
    for token in {*prompt, *output}:
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    for token in set(output):
        x[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
    for token, bias in params.logit_bias.items():
        x[token] += bias
    return x


def reference_token(row, params, prompt, output, position, stop_ids=(STOP,)):
    """The documented order in plain Python; no filters."""
    x = reference_row(row, params, prompt, output)
    text = [*prompt, *output]
    banned = set(stop_ids) if len(output) < params.min_tokens else set()
    banned |= {word[-1] for word in params.bad_words if text[len(text) - len(word) + 1 :] == list(word[:-1])}
    if params.allowed_token_ids is not None:
        banned |= set(range(VOCAB)) - set(params.allowed_token_ids)
    x = [-math.inf if n in banned else value for n, value in enumerate(x)]
    if max(x) == -math.inf:
        return None
    if params.temperature:
        words = first_words(NoiseKey(params.seed, 0, position), VOCAB).tolist()
        best = max(x)
        x = [(value - best) / params.temperature + gumbel_of(word) for value, word in zip(x, words)]
    return x.index(max(x))


@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
    presence=st.sampled_from([0.0, 1.5, -2.0]),
    frequency=st.sampled_from([0.0, 0.4, -0.3]),
    bias=st.dictionaries(TOKENS, st.floats(-100, 100), max_size=3),
    allowed=st.none() | st.lists(TOKENS, min_size=1, max_size=20).map(tuple),
    bad_words=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), max_size=4).map(tuple),
    output=st.lists(st.integers(0, 5), max_size=12),
    min_tokens=st.integers(0, 14),
)
def test_a_token_is_the_one_of_the_documented_order(
    seed, temperature, repetition, presence, frequency, bias, allowed, bad_words, output, min_tokens
):
    params = {
        "temperature": temperature,
        "repetition_penalty": repetition,
        "presence_penalty": presence,
        "frequency_penalty": frequency,
        "logit_bias": bias,
        "allowed_token_ids": allowed,
        "bad_words": bad_words,
        "min_tokens": min_tokens,
    }
    chooser, row, position = chooser_of(output=output, **params), logits(seed), len(PROMPT) + len(output)
    expected = reference_token(row, chooser.params, PROMPT, output, position)
    assert chooser.choose(row, position) == expected
    assert (chooser.problem is None) == (expected is not None)
    if chooser.is_plain:
        assert greedy(row[None]) == [expected]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"logit_bias": {1: 0.1}},
        {"allowed_token_ids": (1, 2)},
        {"bad_words": ((1, 2),)},
        {"min_tokens": 1},
        {"thinking_end_ids": (9,), "thinking_budget": 0},
    ],
)
def test_only_greedy_without_any_rule_is_plain(fields):
    assert chooser_of(temperature=0.0, top_k=5).is_plain
    assert not chooser_of(**{"temperature": 0.0, **fields}).is_plain


def test_a_chooser_becomes_plain_when_its_rules_no_longer_hold():
    chooser = chooser_of(temperature=0.0, min_tokens=2)
    assert [chooser.is_plain, chooser.advance(1), chooser.is_plain, chooser.advance(1), chooser.is_plain] == [
        False,
        None,
        False,
        None,
        True,
    ]
    assert chooser_of(temperature=0.0, min_tokens=2, stop_ids=()).is_plain


def test_choosing_changes_nothing():
    chooser = chooser_of(output=[1, 2], frequency_penalty=1.0, repetition_penalty=1.2, bad_words=((1, 2, 6),))
    row = logits(1)
    kept = row.clone()
    first = [chooser.choose(row, 6) for _ in range(3)]
    assert len(set(first)) == 1 and torch.equal(row, kept)


def test_advancing_row_by_row_is_the_same_as_starting_over():
    fields = {"frequency_penalty": 0.8, "repetition_penalty": 1.2, "top_p": 0.9, "bad_words": ((1, 2),)}
    steady, output = chooser_of(**fields), []
    for n in range(40):
        position = len(PROMPT) + n
        token = steady.choose(logits(n), position)
        assert token == chooser_of(output=output, **fields).choose(logits(n), position)
        steady.advance(token)
        output.append(token)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_give_no_token(value, temperature):
    row = logits(0)
    row[11] = value
    chooser = chooser_of(temperature=temperature, logit_bias={3: 1.0})
    assert chooser.choose(row, 4) is None and chooser.problem == NOT_NUMBERS
    assert chooser.choose(logits(0), 4) is not None and chooser.problem is None


def test_rules_that_leave_nothing_give_a_problem_that_says_so():
    chooser = chooser_of(allowed_token_ids=(6,), bad_words=((6,),))
    assert chooser.choose(logits(0), 4) is None
    assert "no token is allowed here" in chooser.problem


def test_a_bad_word_is_avoided_wherever_it_began():
    row = torch.zeros(VOCAB)
    row[9] = 5.0
    fields = {"temperature": 0.0, "bad_words": ((4, 7, 9),)}
    assert chooser_of(**fields).choose(row, 4) == 0
    assert chooser_of(prompt=[3, 4], output=[7], **fields).choose(row, 3) == 0
    assert chooser_of(output=[4], **fields).choose(row, 5) == 9
    assert chooser_of(prompt=[7], **fields).choose(row, 1) == 9


def test_logprobs_are_those_of_the_models_own_distribution():
    row = logits(2)
    chooser = chooser_of(temperature=0.1, logit_bias={4: 100.0}, allowed_token_ids=(4,), logprobs=2)
    assert chooser.choose(row, 4) == 4
    entry, exact = chooser.logprob(row, 4), row.double().log_softmax(-1)
    assert entry.logprob == pytest.approx(float(exact[4]), abs=1e-6)
    assert entry.top[0] == (int(exact.argmax()), pytest.approx(float(exact.max()), abs=1e-6))
    assert chooser_of().logprob(row, 4) is None


# Thinking

START, END = (10,), (20, 21)
THINKING = {"thinking_start_ids": START, "thinking_end_ids": END}


def think(chooser, tokens):
    """Feed tokens, except where one is forced; returns what was told to the chooser."""
    told = []
    for token in tokens:
        row = torch.zeros(VOCAB)
        row[token] = 50.0
        told.append(chooser.choose(row, len(PROMPT) + len(told)))
        chooser.advance(told[-1])
    return told


def test_a_spent_budget_forces_the_end_marker_and_then_nothing():
    chooser = chooser_of(prompt=[1, 10], thinking_budget=3, **THINKING)
    assert think(chooser, [5, 6, 7, 8, 8, 9]) == [5, 6, 7, 20, 21, 9]


def test_an_end_marker_that_has_begun_is_only_completed():
    chooser = chooser_of(prompt=[1, 10], thinking_budget=3, **THINKING)
    assert think(chooser, [5, 6, 20, 8, 9]) == [5, 6, 20, 21, 9]


def test_thinking_that_ends_by_itself_is_left_alone():
    chooser = chooser_of(prompt=[1, 10], thinking_budget=4, **THINKING)
    assert think(chooser, [5, 20, 21, 1, 2, 3, 4, 5]) == [5, 20, 21, 1, 2, 3, 4, 5]


def test_thinking_opens_in_the_answer_and_what_is_left_of_the_budget_counts():
    chooser = chooser_of(thinking_budget=4, **THINKING)
    assert think(chooser, [1, 2, 10, 5, 20, 21, 10, 5, 6, 6, 7]) == [1, 2, 10, 5, 20, 21, 10, 5, 20, 21, 7]


@pytest.mark.parametrize(
    ("prompt", "start", "is_open"),
    [
        ([1, 10, 5], START, True),
        ([1, 10, 5, 20, 21], START, False),
        ([10, 20, 21, 3, 10], START, True),
        ([1, 2], START, False),
        ([1, 2], (), True),
        ([1, 20, 21], (), True),
    ],
)
def test_the_prompts_last_marker_says_whether_thinking_is_open(prompt, start, is_open):
    fields = {"thinking_start_ids": start, "thinking_end_ids": END, "thinking_budget": 0}
    expected = [20, 21, 7] if is_open else [7, 7, 7]
    assert think(chooser_of(prompt=prompt, **fields), [7, 7, 7]) == expected


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("prompt", [[1], [*START, 1], [*START, *END]])
def test_the_parameters_word_counts_before_the_prompts(prompt, is_open):
    chooser = chooser_of(prompt=prompt, thinking_budget=0, thinking_is_open=is_open, **THINKING)
    assert think(chooser, [7, 7, 7]) == ([20, 21, 7] if is_open else [7, 7, 7])


def test_a_draft_is_cut_at_a_forced_token():
    chooser = chooser_of(prompt=[1, 10], thinking_budget=0, **THINKING)
    assert chooser.num_allowed([20, 21]) == 1 and chooser.allows(20) and not chooser.allows(21)
    assert chooser.num_allowed([]) == 0
    assert chooser_of().num_allowed([1, 2, 3]) == 3


def test_the_noise_key_is_what_tells_choices_and_positions_apart():
    row = torch.zeros(VOCAB)
    drawn = [chooser_of(choice=choice).choose(row, position) for choice in (0, 1) for position in range(4, 24)]
    assert drawn[:20] != drawn[20:] and len(set(drawn)) > 10
    words = first_words(NoiseKey(5, 1, 4), VOCAB)
    assert drawn[20] == int(np.argmax(words))
