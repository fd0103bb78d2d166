"""An engine with `numerics` "fast": other bits, as right; and whoever computes beside it keeps every bit."""

import random
import threading

import pytest
import torch
from tiny_model import sandwich
from tiny_text import byte_tokenizer

from hyla.engine import Engine, EngineThread, Request, SamplingParams
from hyla.engine.embedding import embed
from hyla.engine.requests.embed import EmbedCommand
from hyla.errors import ConfigError
from hyla.layers.mla import MLA
from hyla.models.initialize import initialize
from hyla.models.recording import StepForward
from hyla.models.trunk import Model
from hyla.ops import numerics
from hyla.ops.batch import Batch
from hyla.ops.exact import rows
from hyla.ops.latent import expanded

VOCAB, MEMORY, WAIT = 61, 32 << 20, 60
PROMPT = [random.Random(1).randrange(VOCAB) for _ in range(300)]
SCORE = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True, prompt_logprobs=0, logprobs=0)
TOLERANCE = 1e-5
"""Relative error of fp32 logits, as of an fp32 layer (tests/layers/test_expanded_mla.py)."""


def make_model():
    return initialize(Model(sandwich("mla", VOCAB)), 5, std=0.2).eval()


@pytest.fixture(scope="module")
def model(each_backend):
    return make_model().pack()


def make(model, name, **options):
    return Engine(model, numerics=name, memory=MEMORY, max_num_sequences=3, **options)


def found(engine, prompt=PROMPT, params=SCORE):
    """The numbers of an answer."""
    (done,) = engine.generate([prompt], params)
    engine.cache.ledger.check()
    return done.prompt_logprobs, done.token_ids, done.logprobs


@pytest.fixture
def expansions(monkeypatch):
    """The rows of each call of the expanded form."""
    calls, call = [], expanded.expanded_attention
    monkeypatch.setattr(
        expanded, "expanded_attention", lambda q_THK, *a, **o: calls.append(len(q_THK)) or call(q_THK, *a, **o)
    )
    return calls


def logits_of(model, name):
    """Of a prompt through a cache at once, by the model's own dtype."""
    engine = make(model, name, pack=False)
    with torch.inference_mode(), numerics.use(name):
        batch = engine.cache.batch([(engine.cache.open(), len(PROMPT))])
        hidden_TD = engine.model(torch.tensor(PROMPT), batch, engine.cache.layers)
        return engine.model.head_logits(hidden_TD)


def test_a_fast_engine_is_right_and_not_exact(model, expansions):
    """As near to float64 as fp32 layers are held to be; the two engines share the model's weights."""
    exact, fast = make(model, "exact"), make(model, "fast")
    before = found(exact)
    assert not expansions
    other = found(fast)
    assert expansions == [300, 300] and other != before and found(exact) == before
    assert found(make(model, "fast"), PROMPT[:200]) and expansions == [300, 300], "too short to be worth it"
    right = logits_of(make_model().double(), "exact")
    for name in ("exact", "fast"):
        assert (logits_of(model, name) - right).abs().max() <= TOLERANCE * right.abs().max()
    assert (exact.facts().numerics, fast.facts().numerics) == ("exact", "fast")


def test_a_trainer_and_an_exact_engine_compute_exactly_while_a_fast_step_runs(model, monkeypatch):
    """The fast engine's thread waits in the middle of its step while the others compute."""
    trained, ids = make_model(), torch.tensor(PROMPT)
    exact = make(model, "exact", prefix_cache=False)
    inside, may_end, call, seen = threading.Event(), threading.Event(), expanded.expanded_attention, []

    def numbers():
        trained.zero_grad()
        logits = trained.head_logits(trained(ids, Batch.packed([200, 100])))
        logits.square().sum().backward()
        return [logits.detach(), *(weight.grad.clone() for weight in trained.parameters()), found(exact)]

    def stopped(*arguments, **options):
        seen.append(numerics.chosen())
        inside.set()
        assert may_end.wait(WAIT)
        return call(*arguments, **options)

    before = numbers()
    monkeypatch.setattr(expanded, "expanded_attention", stopped)
    thread, done = EngineThread(make(model, "fast")), threading.Event()
    thread.start()
    try:
        thread.submit(Request("a", tuple(PROMPT), SCORE), lambda event: event.finish_reason and done.set())
        assert inside.wait(WAIT)
        during = numbers()
        assert not done.is_set()
        may_end.set()
        assert done.wait(WAIT)
    finally:
        may_end.set()
        thread.stop()
    assert seen == ["fast", "fast"] and numerics.chosen() == "exact"
    assert during[-1] == before[-1]
    assert all(torch.equal(x, y) for x, y in zip(during[:-1], before[:-1], strict=True))


@pytest.mark.parametrize("speculation", ["lookup", "draft"])
def test_drafts_and_kept_prefixes_stay_within_their_engine(model, speculation, expansions):
    drafts = {"draft_model": make_model()} if speculation == "draft" else {}
    fast = make(model, "fast", speculation=speculation, fixed_drafts=True, **drafts)
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    (first,), (again,) = (fast.generate([PROMPT[:150] * 2], params) for _ in range(2))
    assert expansions[0] == 300 and first.usage.drafted_tokens > 0
    assert again.usage.cached_tokens == 256 and len(again.token_ids) == 12
    fast.cache.ledger.check()


def test_a_text_s_vector_follows_its_engine(model, monkeypatch):
    seen, forward = [], MLA.forward
    monkeypatch.setattr(MLA, "forward", lambda *a: seen.append(numerics.chosen()) or forward(*a))
    command = EmbedCommand(tuple(PROMPT[:20]))
    vectors = [embed(model, command), embed(model, command, "fast")]
    assert seen == ["exact"] * 2 + ["fast"] * 2 and vectors[0] == pytest.approx(vectors[1], abs=1e-5)
    thread = EngineThread(make(model, "fast"))
    thread.start()
    try:
        thread.embed(command).result(WAIT)
    finally:
        thread.stop()
    assert seen[4:] == ["fast"] * 2


def test_a_recorded_step_is_made_again_for_its_own_numerics_only(model, each_backend):
    if each_backend != "native":
        pytest.skip("steps are recorded where our kernels compute")
    engine, forward = make(model, "exact"), StepForward(model)
    sequence = engine.cache.open()

    @torch.inference_mode()
    def step(name):
        engine.cache.numerics = name
        with numerics.use(name):
            batch = engine.cache.batch([(sequence, 1)])
            forward(torch.tensor([3]), batch, engine.cache.layers)
        engine.cache.commit(sequence, 1)
        return forward.num_replayed

    names = ("exact", "exact", "exact", "fast", "fast", "fast", "exact")
    assert [step(name) for name in names] == [0, 0, 1, 1, 1, 2, 3]


def test_products_of_the_library_follow_the_engine_s_choice(model, each_backend, monkeypatch):
    """Where the library computes, it gets a fast engine's rows as they come and an exact one's in counts it was checked
    for. Our kernels need neither."""
    counts, call = [], rows.linear_once
    monkeypatch.setattr(rows, "linear_once", lambda x, *a: counts.append(len(x)) or call(x, *a))
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    found(make(model, "exact", prefix_cache=False), PROMPT[:100], params)
    assert 100 not in counts
    found(make(model, "fast", prefix_cache=False), PROMPT[:100], params)
    assert (100 in counts) == (each_backend != "native")


def test_a_made_up_choice_is_refused():
    with pytest.raises(ConfigError, match="numerics"):
        Engine(make_model(), tokenizer=byte_tokenizer(), numerics="loose")
