import threading
import time
from collections import Counter

import pytest
from tiny_text import byte_tokenizer, tiny_model

from hyla.engine import Engine, EngineThread, Overloaded, Regex, Request, SamplingParams
from hyla.errors import RequestError


class Listener:
    def __init__(self, wanted=1):
        self.events, self._left, self.done = [], wanted, threading.Event()

    def __call__(self, event):
        self.events.append(event)
        if event.finish_reason:
            self._left -= 1
            if not self._left:
                self.done.set()


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model(), memory=24 << 20, max_num_sequences=4)


@pytest.fixture
def thread(engine):
    thread = EngineThread(engine, max_requests=2)
    thread.start()
    yield thread
    thread.stop()
    assert engine.cache.ledger.slots.used == 0 and not engine.has_work


def request(name, n=1, **params):
    return Request(
        name, (1, 2, 3), SamplingParams(n=n, **({"max_tokens": 4, "temperature": 0, "ignore_eos": True} | params))
    )


def test_events_arrive_for_every_choice(thread, engine):
    listener = Listener(wanted=2)
    resolved = thread.submit(request("a", n=2, seed=5, temperature=1.0), listener)
    assert resolved.params.max_tokens == 4 and listener.done.wait(60)
    assert sorted(event.choice for event in listener.events) == [0] * 4 + [1] * 4
    assert thread.num_requests == 0


def test_bad_and_surplus_requests_are_refused_before_they_are_queued(thread, engine, monkeypatch):
    goes_on, step = threading.Event(), engine.step
    monkeypatch.setattr(engine, "step", lambda: goes_on.wait(60) and step())
    with pytest.raises(RequestError, match="token id 999"):
        thread.submit(Request("bad", (999,)), Listener())
    long = {"max_tokens": 400}
    first, second = Listener(), Listener()
    thread.submit(request("first", **long), first)
    with pytest.raises(RequestError, match="'first' is in use"):
        thread.submit(request("first"), Listener())
    thread.submit(request("second", **long), second)
    with pytest.raises(Overloaded, match="2 requests are unfinished"):
        thread.submit(request("third"), Listener())
    thread.cancel("first")
    thread.cancel("never seen")
    goes_on.set()
    assert first.done.wait(60) and first.events[-1].finish_reason == "cancelled"
    third = Listener()
    thread.submit(request("third"), third)
    assert third.done.wait(60)


def test_stopping_ends_what_runs_and_refuses_what_comes(engine, monkeypatch):
    thread = EngineThread(engine)
    before = Listener()
    thread.submit(request("before the start"), before)
    thread.start()
    assert before.done.wait(60)
    running, runs = Listener(), threading.Event()

    def step(true=engine.step):
        if running.events:
            runs.set()
            while not thread._is_stopping:
                time.sleep(0.01)
        return true()

    monkeypatch.setattr(engine, "step", step)
    thread.submit(request("running", max_tokens=400), running)
    assert runs.wait(60)
    thread.stop()
    assert running.events[-1].finish_reason == "cancelled"
    with pytest.raises(Overloaded, match="shutting down"):
        thread.submit(request("late"), Listener())
    assert engine.cache.ledger.slots.used == 0


def test_a_listener_that_fails_loses_only_its_own_request(thread):
    def fail(event):
        raise RuntimeError("gone")

    thread.submit(request("gone", max_tokens=300), fail)
    other = Listener()
    thread.submit(request("other"), other)
    assert other.done.wait(60) and other.events[-1].finish_reason == "length"


def test_an_engine_that_fails_outside_a_batch_ends_everything_and_goes_on(thread, engine, monkeypatch):
    whole, calls = engine.scheduler.plan, []

    def fail_once():
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("scheduler fault")
        return whole()

    monkeypatch.setattr(engine.scheduler, "plan", fail_once)
    failed, fine = Listener(), Listener()
    thread.submit(request("failed"), failed)
    assert failed.done.wait(60)
    assert (failed.events[-1].finish_reason, failed.events[-1].error) == (
        "error",
        "the engine failed; its log has the reason",
    )
    thread.submit(request("fine"), fine)
    assert fine.done.wait(60) and fine.events[-1].finish_reason == "length"


def test_a_request_is_resolved_once_and_its_grammar_compiled_once_for_each_choice(monkeypatch):
    from hyla.engine.requests.resolving import Resolver
    from hyla.engine.sampling.grammar import GrammarCompiler

    counts = Counter()

    def counted(own, name):
        method = getattr(own, name)

        def spy(self, *given):
            counts[name] += 1
            return method(self, *given)

        monkeypatch.setattr(own, name, spy)

    counted(Resolver, "resolve")
    counted(GrammarCompiler, "_compile")
    engine = Engine(tiny_model(), tokenizer=byte_tokenizer(), memory=24 << 20, max_num_sequences=4)
    thread = EngineThread(engine)
    thread.start()
    listener = Listener(wanted=3)
    thread.submit(
        request("g", n=3, seed=1, temperature=1.0, ignore_eos=False, grammar=Regex(pattern="[ab]{3}")), listener
    )
    assert listener.done.wait(60)
    assert counts == {"resolve": 1, "_compile": 3}
    texts = ["".join(event.text for event in listener.events if event.choice == n) for n in range(3)]
    assert all(len(text) == 3 and set(text) <= {"a", "b"} for text in texts)
    counts.clear()
    engine = thread.engine
    thread.stop()
    engine.generate("x", SamplingParams(max_tokens=4, grammar=Regex(pattern="[ab]{3}")))
    assert counts == {"resolve": 1, "_compile": 1}
