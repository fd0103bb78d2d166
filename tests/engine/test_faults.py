"""Something fails in the middle of the work: each affected request gets a clear end, nobody else notices, the engine
lives on, and nothing is held for ever."""

import itertools
import threading

import pytest
import torch
from matrix.mixers import VOCAB, draft_model, model_of

from hyla.caches import Cache
from hyla.caches.ledger import Units
from hyla.caches.page_tables import PageTables
from hyla.caches.prefix import PrefixCache
from hyla.caches.storage import SnapshotStore
from hyla.caches.tensors import PoolTensors
from hyla.engine import Engine, EngineThread, Request, SamplingParams
from hyla.engine.drafts import ModelDrafter
from hyla.engine.requests.collect import Collector
from hyla.engine.scheduling.reuse import PrefixReuse
from hyla.engine.scheduling.scheduler import Scheduler
from hyla.errors import CapacityError

MEMORY = 8 << 20
PARAMS = SamplingParams(
    max_tokens=12, temperature=1.0, seed=4, logprobs=0, ignore_eos=True, allowed_token_ids=(3, 7, 8)
)
SHARED = tuple(range(VOCAB)) + (5,) * 30
LONG = (*SHARED, *range(45))
PROMPTS = [(*LONG, 9), (3, 7, 3, 7, 8), (*SHARED, 1, 2), SHARED[:70], (*LONG, 1, 2, 3), tuple(range(40))]


def make(mixer="kda", **options):
    own = {"draft_model": draft_model()} if options.get("speculation") == "draft" else {}
    options = {"memory": MEMORY, "max_num_sequences": 3, "prefill_chunk": 50, "fixed_drafts": True} | options
    return Engine(model_of(mixer, "float32"), max_draft_tokens=4, **options, **own)


@pytest.fixture(scope="module")
def expected():
    """By mixer: the answers to PROMPTS."""
    found = {}

    def of(mixer):
        if mixer not in found:
            engine = make(mixer, max_num_sequences=1, prefix_cache=False)
            found[mixer] = [answer(one) for one in engine.generate(PROMPTS, PARAMS)]
        return found[mixer]

    return of


def answer(completion):
    return completion.token_ids, completion.logprobs, completion.finish_reason


def fail_at(monkeypatch, owner, name, turn, error):
    """Make the turn-th call of a method raise, once. Returns the list of calls so far."""
    plain, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(name)
        if len(calls) == turn:
            raise error
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    return calls


def check_balance(engine):
    """Nobody holds anything, and everything that is cached can be let go."""
    assert not engine.has_work
    drafter = engine.speculation.drafter
    ledgers = [engine.cache.ledger] + ([drafter.cache.ledger] if isinstance(drafter, ModelDrafter) else [])
    engine.forget_cached()
    for ledger in ledgers:
        ledger.check()
        assert [units.total - units.free for units in ledger.units] == [0] * len(ledger.units)


def check_life(engine, expected):
    """Later answers are right, with what is cached by now."""
    assert [answer(one) for one in engine.generate(PROMPTS, PARAMS)] == expected
    check_balance(engine)


OUT_OF_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
PLACES = [
    (Units, "take", (1, 5, 9), CapacityError("a take failed")),
    (Cache, "open", (3,), OUT_OF_MEMORY),
    (Cache, "resume", (2,), OUT_OF_MEMORY),
    (Cache, "batch", (4,), OUT_OF_MEMORY),
    (Cache, "commit", (7,), OUT_OF_MEMORY),
    (PoolTensors, "apply", (1, 5, 9), OUT_OF_MEMORY),
    (PageTables, "take", (1, 4), OUT_OF_MEMORY),
    (SnapshotStore, "save", (1, 2), OUT_OF_MEMORY),
    (SnapshotStore, "load", (1,), OUT_OF_MEMORY),
    (PrefixCache, "extend", (2,), OUT_OF_MEMORY),
    (PrefixCache, "checkpoint", (1, 3), OUT_OF_MEMORY),
]


@pytest.mark.parametrize(
    "owner,name,turn,error",
    [(owner, name, turn, error) for owner, name, turns, error in PLACES for turn in turns],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:20],
)
@pytest.mark.parametrize("speculation", ["lookup", "draft"])
def test_memory_that_fails_anywhere_ends_what_needed_it_and_nothing_else(
    owner, name, turn, error, speculation, expected, monkeypatch
):
    engine = make(speculation=speculation)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, owner, name, turn, error)
        found = engine.generate(PROMPTS, PARAMS)
    assert len(calls) >= turn, "the fault was never met"
    for mine, right in zip(found, expected("kda")):
        if mine.finish_reason == "error":
            assert type(error).__name__ in mine.error and str(error) in mine.error
            assert mine.token_ids == right[0][: len(mine.token_ids)]
        else:
            assert answer(mine) == right
    # What waited for a slot was not in the batch that failed.
    assert sum(one.finish_reason == "error" for one in found) <= 3
    check_life(engine, expected("kda"))


@pytest.mark.parametrize("speculation", ["off", "lookup", "mtp", "draft"])
@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("turn", [1, 9])
def test_an_operator_that_raises_ends_its_batch_and_nothing_else(speculation, layer, turn, expected, monkeypatch):
    engine = make(speculation=speculation)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, engine.model.sublayers[layer].module, "forward", turn, RuntimeError("it broke"))
        found = engine.generate(PROMPTS, PARAMS)
    assert len(calls) >= turn
    failed = [one for one in found if one.finish_reason == "error"]
    assert 1 <= len(failed) <= 3
    assert all(one.error == "computing the batch failed: RuntimeError: it broke" for one in failed)
    for mine, right in zip(found, expected("kda")):
        assert mine in failed or answer(mine) == right
    check_life(engine, expected("kda"))


@pytest.mark.parametrize("place", ["predict_next", "_extend"])
@pytest.mark.parametrize("turn", [1, 4])
def test_a_drafter_that_raises_holds_nothing(place, turn, expected, monkeypatch):
    engine = make(speculation={"predict_next": "mtp", "_extend": "draft"}[place])
    owner = engine.model if place == "predict_next" else ModelDrafter
    with monkeypatch.context() as patch:
        fail_at(patch, owner, place, turn, OUT_OF_MEMORY)
        found = engine.generate(PROMPTS, PARAMS)
    assert any(one.finish_reason == "error" for one in found)
    check_life(engine, expected("kda"))


@pytest.mark.parametrize("mixer", ["softmax", "mamba2", "window"])
@pytest.mark.parametrize("turn", [1, 4])
def test_numbers_that_broke_once_are_not_handed_on(mixer, turn, expected, monkeypatch):
    engine = make(mixer)
    layer, turns = engine.model.sublayers[0].module, itertools.count(1)
    plain = layer.forward

    def broken(*args, **kwargs):
        out = plain(*args, **kwargs)
        return torch.full_like(out, float("nan")) if next(turns) == turn else out

    right = expected(mixer)
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", broken)
        found = engine.generate(PROMPTS, PARAMS)
    failed = [one for one in found if one.finish_reason == "error"]
    assert failed and all("NaN" in one.error for one in failed)
    for mine, other in zip(found, right):
        assert mine in failed or answer(mine) == other
    check_life(engine, right)


def test_a_sequence_that_cannot_be_started_ends_alone(expected, monkeypatch):
    engine = make()
    engine.generate(PROMPTS[0], PARAMS)
    collectors = [Collector(engine.add(Request(f"r{n}", prompt, PARAMS))) for n, prompt in enumerate(PROMPTS)]
    load, refused = SnapshotStore.load, []

    def load_but_one(store, slots, triples):
        """The first slot to be loaded cannot be, alone or with others."""
        refused.extend([] if refused else [triples[0][1]])
        if refused[0] in [slot for _, slot, _ in triples] and len(refused) < 3:
            refused.extend([None] if len(triples) > 1 else [None, None])
            raise MemoryError("no room")
        load(store, slots, triples)

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotStore, "load", load_but_one)
        while engine.has_work:
            for event in engine.step():
                collectors[int(event.request_id[1:])].add(event)
    found = [collector.completions()[0] for collector in collectors]
    (failed,) = [one for one in found if one.finish_reason == "error"]
    assert failed.error == "starting the sequence failed: MemoryError: no room" and failed.token_ids == ()
    for mine, right in zip(found, expected("kda")):
        assert mine is failed or answer(mine) == right
    check_life(engine, expected("kda"))


@pytest.mark.parametrize("place", ["choose", "guess", "num_allowed", "advance"])
@pytest.mark.parametrize("speculation", ["draft", "mtp"])
def test_what_fails_while_choosing_for_one_ends_that_one_alone(place, speculation, expected, monkeypatch):
    mixer = "kda"
    right = expected(mixer)
    engine = make(mixer, speculation=speculation)
    collectors = [Collector(engine.add(Request(f"r{n}", prompt, PARAMS))) for n, prompt in enumerate(PROMPTS)]
    unlucky = engine._generations["r1"][0].chooser
    plain = getattr(type(unlucky), place)

    def failing(*args, **kwargs):
        if unlucky.num_tokens >= 3:
            raise ValueError("no such token")
        return plain(unlucky, *args, **kwargs)

    monkeypatch.setattr(unlucky, place, failing, raising=True)
    while engine.has_work:
        for event in engine.step():
            collectors[int(event.request_id[1:])].add(event)
    found = [collector.completions()[0] for collector in collectors]
    failed = found.pop(1)
    assert failed.finish_reason == "error" and failed.error == "choosing a token failed: ValueError: no such token"
    assert [answer(one) for one in found] == [*right[:1], *right[2:]]
    assert failed.token_ids == right[1][0][: len(failed.token_ids)] and len(failed.token_ids) >= 3
    check_life(engine, right)


def test_a_state_that_cannot_be_kept_is_computed_again(expected, monkeypatch):
    engine = make(max_num_sequences=1)
    with monkeypatch.context() as patch:
        patch.setattr(PrefixReuse, "_marks", lambda *args: set())
        # The first state is kept when the first answer ends.
        calls = fail_at(patch, SnapshotStore, "save", 1, OUT_OF_MEMORY)
        found = engine.generate(PROMPTS, PARAMS)
    assert calls and [answer(one) for one in found] == expected("kda")
    check_life(engine, expected("kda"))


@pytest.mark.parametrize("name", ["forward", "plan"])
def test_an_interrupted_generate_leaves_a_working_engine(name, expected, monkeypatch):
    engine = make(speculation="draft")
    owner = engine.model.sublayers[-1].module if name == "forward" else engine.prefix
    with monkeypatch.context() as patch:
        fail_at(patch, owner, "forward" if name == "forward" else "start", 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            engine.generate(PROMPTS, PARAMS)
    engine.take_events()
    check_life(engine, expected("kda"))


def listen(thread, prompts):
    """Submit prompts to a thread; a function that waits for their completions."""
    collectors, ends = [], threading.Semaphore(0)

    def hear(collector, event):
        collector.add(event)
        if collector.is_finished:
            ends.release()

    for n, prompt in enumerate(prompts):
        request = Request(f"t{id(prompts)}-{n}", prompt, PARAMS)
        collectors.append(collector := Collector(thread.engine.resolve(request).request))
        thread.submit(request, lambda event, collector=collector: hear(collector, event))

    def wait():
        for _ in prompts:
            assert ends.acquire(timeout=60)
        return [collector.completions()[0] for collector in collectors]

    return wait


@pytest.mark.parametrize("place", ["plan", "start"])
def test_a_fault_outside_of_a_batch_ends_what_is_unfinished_and_the_thread_lives(place, expected, monkeypatch):
    thread = EngineThread(make())
    owner = {"plan": Scheduler, "start": PrefixCache}[place]
    with monkeypatch.context() as patch:
        fail_at(patch, owner, place, 2, RuntimeError("it broke"))
        wait = listen(thread, PROMPTS)
        thread.start()
        found = wait()
    assert any(one.finish_reason == "error" for one in found)
    assert all(one.error for one in found if one.finish_reason == "error")
    assert [answer(one) for one in listen(thread, list(PROMPTS))()] == expected("kda")
    thread.stop()
    check_life(thread.engine, expected("kda"))


def test_stopping_in_the_middle_ends_every_request(expected):
    thread = EngineThread(make(speculation="mtp"))
    wait = listen(thread, PROMPTS * 3)
    thread.start()
    thread.stop()
    found = wait()
    assert {one.finish_reason for one in found} <= {"cancelled", "length"}
    for mine, right in zip(found, expected("kda") * 3):
        assert mine.token_ids == right[0][: len(mine.token_ids)]
    check_life(thread.engine, expected("kda"))
