"""ln p of a token under the distribution that it was drawn from."""

import math

import numpy as np
import pytest
import torch
from test_choosing import reference_row
from test_engine_thread import Listener
from tiny_model import save_tiny_folder

from hyla.engine import Choice, Engine, EngineProcess, Launch, Request, SamplingParams
from hyla.engine.requests.collect import Collector
from hyla.engine.sampling.acceptance import Distribution, Draft
from hyla.engine.sampling.choosing import Chooser
from hyla.engine.sampling.sampler import filtered
from hyla.errors import RequestError
from hyla.ops.exact.logprobs import of_tokens

OPTIONS = {"memory": 24 << 20, "max_num_sequences": 4}
VOCAB = 301
PROMPT = (3, 4, 4, 7)
FILTERS = ({"top_p": 0.6}, {"top_k": 5}, {"min_p": 0.1}, {"top_k": 40, "top_p": 0.8, "min_p": 0.02})


def logits(seed):
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 3.0


def chooser_of(*, output=(), stop_ids=(), **fields):
    params = SamplingParams(seed=5, logprobs=0, sampled_logprobs=True, **fields)
    chooser = Chooser(params, PROMPT, choice=0, stop_ids=stop_ids)
    for token in output:
        chooser.advance(token)
    return chooser


def chosen(row, position=9, draft=None, **fields):
    """(token, its `sampled`)."""
    chooser = chooser_of(**fields)
    token = chooser.choose(row, position, draft)
    return token, chooser.logprob(row, token).sampled


def of_token(row, token, temperature):
    return of_tokens(row[None], torch.tensor([token]), temperature).item()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.9, 1e-6])
def test_after_a_temperature_alone_it_is_the_trainer_s_number(temperature):
    for seed in range(20):
        row = logits(seed)
        token, sampled = chosen(row, temperature=temperature)
        assert sampled == of_token(row, token, temperature)
        # What changes nothing adds nothing.
        assert chosen(row, temperature=temperature, top_k=VOCAB, top_p=1.0, logit_bias={4: 0.0}) == (token, sampled)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_a_filter_adds_minus_the_log_of_the_kept_mass(filters, temperature):
    masses = []
    for seed in range(20):
        row = logits(seed)
        token, sampled = chosen(row, temperature=temperature, **filters)
        params = SamplingParams(temperature=temperature, **filters)
        _, kept = filtered(row.double().numpy(), None, params)
        probs = torch.softmax(row.double() / temperature, -1)
        mass = probs[torch.from_numpy(kept)].sum().item()
        masses.append(mass)
        assert token in kept
        assert sampled - of_token(row, token, temperature) == pytest.approx(-math.log(mass), abs=2e-6)
        masked = torch.full((VOCAB,), -math.inf)
        masked[kept] = row[kept]
        assert sampled == of_token(masked, token, temperature)
    assert min(masses) < 0.85


@pytest.mark.parametrize(
    "fields",
    [
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.7},
        {"logit_bias": {2: 8.0, 9: -3.0}},
        {"allowed_token_ids": (2, 9, 17, 200)},
        {"allowed_token_ids": (2, 9, 17, 200), "top_k": 3, "logit_bias": {9: 5.0}},
        {"bad_words": ((2,), (9,)), "min_tokens": 9, "stop_ids": (11,)},
    ],
    ids=str,
)
def test_everything_that_shapes_the_distribution_counts(fields):
    moved = []
    for seed in range(20):
        row, output = logits(seed), (2, 9, 9)
        token, sampled = chosen(row, output=output, temperature=0.8, **fields)
        exact = reference_probs(row, output, 0.8, **fields)
        assert sampled == pytest.approx(math.log(exact[token]), abs=2e-6)
        moved.append(abs(sampled - of_token(row, token, 0.8)))
    assert max(moved) > 1e-2


def reference_probs(row, output, temperature, *, stop_ids=(), **fields):
    """float64, in the documented order."""
    params = SamplingParams(**fields)
    x = np.array(reference_row(row, params, PROMPT, output))
    banned = {word[-1] for word in params.bad_words} | (set(stop_ids) if params.min_tokens else set())
    banned |= set(range(VOCAB)) - set(params.allowed_token_ids or range(VOCAB))
    x[sorted(banned)] = -math.inf
    if params.top_k:
        x[np.argsort(-x)[params.top_k :]] = -math.inf
    weights = np.exp((x - x.max()) / temperature)
    return weights / weights.sum()


@pytest.mark.parametrize("filters", [{}, *FILTERS], ids=str)
def test_a_sampled_draft_changes_nothing_whether_it_is_accepted_or_not(filters):
    kept_drafts = 0
    for seed in range(60):
        row, params = logits(seed), SamplingParams(temperature=0.7, **filters)
        source = Distribution.of(*filtered(logits(seed + 100).double().numpy(), None, SamplingParams(temperature=3.0)))
        drafted = int(row.argmax()) if seed % 2 else 17
        token, sampled = chosen(row, draft=Draft(drafted, source), temperature=0.7, **filters)
        kept_drafts += token == drafted
        scaled, ids = filtered(row.double().numpy(), None, params)
        (prob,) = Distribution.of(scaled, ids).at(np.array([token]))
        assert sampled == pytest.approx(math.log(prob), abs=3e-6)
        if not filters:
            assert sampled == of_token(row, token, 0.7)
    assert 10 < kept_drafts < 55


def test_a_forced_token_was_certain():
    chooser = chooser_of(temperature=0.7, thinking_end_ids=(20, 21), thinking_budget=0)
    assert chooser.choose(logits(1), 4) == 20
    assert chooser.logprob(logits(1), 20).sampled == 0.0
    for token in (20, 21):
        chooser.advance(token)
    token = chooser.choose(logits(2), 6)
    assert chooser.logprob(logits(2), token).sampled == of_token(logits(2), token, 0.7)


def test_who_does_not_ask_is_told_nothing():
    chooser = Chooser(SamplingParams(seed=5, logprobs=0, temperature=0.7), PROMPT, choice=0)
    token = chooser.choose(logits(1), 4)
    assert chooser.logprob(logits(1), token).sampled is None


@pytest.mark.parametrize("temperature", [0.0, 1e-7, 1e7])
def test_a_temperature_at_which_nothing_is_told_is_refused(temperature):
    with pytest.raises(RequestError, match=r"sampled_logprobs needs a temperature from 1e-06 to 1e\+06") as caught:
        SamplingParams(temperature=temperature, logprobs=0, sampled_logprobs=True)
    assert caught.value.param == "sampled_logprobs" and str(temperature) in str(caught.value)


def test_it_needs_entries_to_stand_in():
    with pytest.raises(RequestError, match="ask for logprobs") as caught:
        SamplingParams(sampled_logprobs=True)
    assert caught.value.param == "sampled_logprobs"
    SamplingParams(sampled_logprobs=True, prompt_logprobs=0, max_tokens=0)


# Through engines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_folder(tmp_path_factory.mktemp("sampled") / "model"))


PARAMS = SamplingParams(
    max_tokens=12, seed=3, temperature=0.7, logprobs=2, prompt_logprobs=0, sampled_logprobs=True, ignore_eos=True
)


def test_an_engine_tells_the_numbers_of_the_whole_text_in_one_forward(folder):
    engine = Engine(folder, **OPTIONS)
    for more in ({}, {"top_p": 0.8}):
        (done,) = engine.generate([list(PROMPT)], PARAMS.model_copy(update=more))
        with torch.inference_mode():
            (rows,) = engine.model.logits([[*PROMPT, *done.token_ids[:-1]]])
        tempered = of_tokens(rows, torch.tensor([*PROMPT[1:], *done.token_ids]), 0.7).tolist()
        assert [entry.sampled for entry in done.prompt_logprobs[1:]] == tempered[:3]
        sampled = [entry.sampled for entry in done.logprobs]
        assert (sampled == tempered[3:]) == (not more)
        assert all(one >= other for one, other in zip(sampled, tempered[3:]))


def test_of_two_choices_of_a_grammar_they_add_up_to_one(folder):
    engine = Engine(folder, **OPTIONS)
    params = SamplingParams(
        max_tokens=1,
        temperature=0.7,
        n=32,
        seed=3,
        logprobs=0,
        sampled_logprobs=True,
        grammar=Choice(options=("a", "b")),
    )
    done = engine.generate([list(PROMPT)], params)
    found = {one.token_ids[0]: one.logprobs[0].sampled for one in done}
    assert len(found) == 2 and sum(map(math.exp, found.values())) == pytest.approx(1.0, abs=1e-6)


def test_another_process_tells_the_same_numbers(folder):
    (here,) = Engine(folder, **OPTIONS).generate([list(PROMPT)], PARAMS)
    process = EngineProcess(Launch(folder, OPTIONS))
    process.start()
    try:
        listener = Listener()
        resolved = process.submit(Request("r", PROMPT, PARAMS), listener)
        assert listener.done.wait(60)
    finally:
        process.stop()
    collector = Collector(resolved)
    for event in listener.events:
        collector.add(event)
    (there,) = collector.completions()
    assert there.logprobs == here.logprobs and there.prompt_logprobs == here.prompt_logprobs
    assert all(entry.sampled is not None for entry in (*there.logprobs, *there.prompt_logprobs[1:]))
