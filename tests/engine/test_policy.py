"""Deadlines, queue limits and cancellation of a whole engine, on a clock that moves only when told."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_text import tiny_model

from hyla.engine import Engine, Overloaded, Request, SamplingParams
from hyla.engine.clock import ManualClock, RecentRate
from hyla.engine.runner import Outcome

MEMORY = 24 << 20


@pytest.fixture(scope="module")
def model():
    return tiny_model("kimi_linear")


@pytest.fixture
def clock():
    return ManualClock(100.0)


def make(model, clock, **options):
    options = {"max_num_sequences": 2, "prefill_chunk": 64, "memory": MEMORY} | options
    return Engine(model, clock=clock, **options)


def request(name, *, length=3, n=1, max_tokens=4, **fields):
    params = SamplingParams(n=n, max_tokens=max_tokens, temperature=0, ignore_eos=True)
    return Request(name, tuple(k % 250 for k in range(length)), params, **fields)


def is_empty(engine):
    engine.cache.ledger.check()
    ledger = engine.cache.ledger
    return not engine.has_work and ledger.pages.used == ledger.slots.used == 0


def ends(events):
    return [(event.request_id, event.finish_reason) for event in events if event.finish_reason]


def test_a_deadline_ends_a_request_wherever_it_is(model, clock):
    engine = make(model, clock)
    engine.add(request("decoding", deadline_seconds=5, max_tokens=90))
    engine.step()
    engine.add(request("prefilling", length=300, deadline_seconds=5, n=1))
    engine.add(request("waiting", deadline_seconds=5, n=2))
    engine.add(request("in time", deadline_seconds=50))
    engine.step()
    assert [one.num_pending > 1 for one in engine.scheduler.running] == [False, True]
    clock.advance(4.9)
    assert ends(engine.step()) == []
    clock.advance(0.1)
    late = [event for event in engine.step() if event.finish_reason]
    assert sorted((event.request_id, event.choice) for event in late) == [
        ("decoding", 0),
        ("prefilling", 0),
        ("waiting", 0),
        ("waiting", 1),
    ]
    assert {event.finish_reason for event in late} == {"deadline"}
    assert next(event for event in late if event.request_id == "decoding").usage.completion_tokens > 1
    while engine.has_work:
        last = engine.step()
    assert ends(last) == [("in time", "length")]
    assert is_empty(engine)


def test_a_deadline_counts_from_the_arrival(model, clock):
    engine = make(model, clock)
    engine.add(request("r", deadline_seconds=5), arrived=96.0)
    assert engine.next_deadline() == 101.0
    clock.advance(1.0)
    assert ends(engine.step()) == [("r", "deadline")] and is_empty(engine)
    assert engine.next_deadline() is None


def test_a_request_is_refused_when_too_many_wait_and_told_when_to_come_back(model, clock):
    engine = make(model, clock, max_queued_requests=2)
    for n in range(4):  # two find a slot
        engine.add(request(f"r{n}"))
    with pytest.raises(Overloaded, match=r"^2 requests .* at most 2 requests") as caught:
        engine.add(request("one too many"))
    assert caught.value.retry_after_seconds == 1
    for _ in range(4):
        engine.step()
        clock.advance(10)
    # Two have started by now in 40 seconds: the next place is free after about 20.
    engine.add(request("fits"))
    engine.add(request("fits too"))
    with pytest.raises(Overloaded) as caught:
        for n in range(4):
            engine.add(request(f"again {n}"))
    assert 5 <= caught.value.retry_after_seconds <= 30
    while engine.has_work:
        engine.step()
    assert is_empty(engine)


def test_a_request_is_refused_when_too_many_tokens_wait_but_never_by_an_empty_queue(model, clock):
    engine = make(model, clock, max_num_sequences=1, max_queued_tokens=100)
    engine.add(request("long", length=300))
    engine.step()
    engine.add(request("also long, and nobody waits", length=200))
    with pytest.raises(Overloaded, match=r"200 tokens wait already and this one has 6 tokens; .* 100 tokens"):
        engine.add(request("short", n=2))
    engine.cancel("long")
    engine.cancel("also long, and nobody waits")
    engine.add(request("short", n=2))
    while engine.has_work:
        engine.step()
    assert is_empty(engine)


def test_a_list_of_prompts_passes_through_a_short_queue(model, clock):
    engine = make(model, clock, max_queued_requests=1, max_queued_tokens=10)
    params = SamplingParams(max_tokens=3, temperature=0)
    prompts = [[n + 1] * 9 for n in range(9)]
    wide = make(model, clock, max_num_sequences=9)
    assert [c.token_ids for c in engine.generate(prompts, params)] == [
        c.token_ids for c in wide.generate(prompts, params)
    ]
    assert is_empty(engine)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5, 6, 8, 11])
@pytest.mark.parametrize("n", [1, 3])
def test_cancelling_at_every_point_leaves_nothing(model, clock, num_steps, n):
    """Waiting; prefilling; decoding; and with three choices for two slots, several of these at once."""
    engine = make(model, clock)
    engine.add(request("mine", length=300, n=n, max_tokens=20))
    engine.add(request("other", max_tokens=30))
    events = [event for _ in range(num_steps) for event in engine.step()]
    assert engine.cancel("mine") and not engine.cancel("mine")
    ledger = engine.cache.ledger
    ledger.check()
    assert ledger.slots.used == len(engine.scheduler.running) <= 1
    assert all(one.request.request_id == "other" for one in (*engine.scheduler.running, *engine.scheduler.waiting))
    while engine.has_work:
        events += engine.step()
    assert sorted(ends(events)) == [*[("mine", "cancelled")] * n, ("other", "length")]
    assert is_empty(engine)


def test_a_higher_priority_answers_first_and_changes_nobodys_tokens(model, clock):
    engine = make(model, clock, max_num_sequences=1)
    low, high = request("low", length=70, max_tokens=12, priority=3), request("high", length=10, priority=-3)
    engine.add(low)
    events = engine.step() + engine.step() + engine.step()
    engine.add(high)
    while engine.has_work:
        events += engine.step()
    assert ends(events) == [("high", "length"), ("low", "length")] and engine.scheduler.num_preemptions == 1
    for one in (low, high):
        mine = tuple(t for event in events if event.request_id == one.request_id for t in event.token_ids)
        assert mine == engine.generate(one.prompt, one.params)[0].token_ids
    assert is_empty(engine)


class CountingRunner:
    """In the model's place: every answer is 1, 2, 3, ..."""

    def __init__(self, cache):
        self.cache = cache

    def step(self, parts):
        self.cache.batch([(part.generation.sequence, part.num_known) for part in parts])
        for part in parts:
            self.cache.commit(part.generation.sequence, part.num_known)
        ready = [part.generation for part in parts if part.generation.num_pending == 0]
        return [Outcome(one, [one.accept(one.num_output_tokens + 1, None)]) for one in ready]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"), st.integers(1, 200), st.integers(1, 3), st.integers(-1, 1), st.sampled_from([None, 2, 6])
        ),
        st.tuples(st.just("step"), st.integers(1, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("time"), st.integers(1, 3)),
    ),
    max_size=30,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
def test_each_choice_gets_its_tokens_in_order_and_one_end(model, actions):
    clock = ManualClock()
    engine = make(model, clock, max_queued_requests=5)
    engine._runner = CountingRunner(engine.cache)
    engine.cache.ledger.pages.take(engine.cache.ledger.pages.free - 6)
    events, accepted = [], {}
    for action, *values in actions:
        if action == "add":
            length, n, priority, seconds = values
            name = f"r{len(accepted)}"
            try:
                engine.add(request(name, length=length, n=n, priority=priority, deadline_seconds=seconds, max_tokens=9))
            except Overloaded as error:
                assert error.retry_after_seconds >= 1
                continue
            accepted[name] = n
        elif action == "step":
            events += [event for _ in range(*values) for event in engine.step()]
        elif action == "cancel":
            engine.cancel(f"r{values[0]}")
        else:
            clock.advance(*values)
    while engine.has_work:
        events += engine.step()
    assert engine.cache.ledger.pages.free == 6 and engine.cache.ledger.slots.used == 0
    for name, n in accepted.items():
        for choice in range(n):
            mine = [event for event in events if (event.request_id, event.choice) == (name, choice)]
            assert [event.finish_reason is not None for event in mine] == [False] * (len(mine) - 1) + [True]
            tokens = [token for event in mine for token in event.token_ids]
            assert tokens == list(range(1, len(tokens) + 1))
            assert (mine[-1].finish_reason == "length") == (len(tokens) == 9)


def test_status_has_the_numbers(model, clock):
    engine = make(model, clock)
    for n in range(3):
        engine.add(Request(f"r{n}", (n,) * 70, SamplingParams(max_tokens=20)))
    engine.step()
    clock.advance(2)
    status = engine.status()
    assert status["weights_version"] == status["steps"] == 1
    assert status["running"] == 2 and status["waiting"] == {"requests": 1, "generations": 1, "tokens": 70}
    assert status["tokens_per_second"] == pytest.approx(128 / 2)
    assert status["ledger"]["slots"]["used"] == 2 and status["cache_bytes"] == engine.cache.nbytes
    for n in range(3):
        engine.cancel(f"r{n}")
    engine.step()
    assert is_empty(engine)


def test_a_rate_counts_its_window_only():
    clock = ManualClock(5.0)
    rate = RecentRate(clock, window_seconds=10)
    assert rate.per_second() == 0.0
    rate.add(2)
    rate.add(4)
    assert rate.per_second() == 6.0
    clock.advance(3)
    rate.add(3)
    assert rate.per_second() == 3.0
    clock.advance(9)
    assert rate.per_second() == 0.3
    clock.advance(100)
    assert rate.per_second() == 0.0


def test_preempting_everything_changes_no_answer(model, clock):
    engine = make(model, clock)
    alone = [engine.generate([1] * length, SamplingParams(max_tokens=9, seed=3))[0].token_ids for length in (5, 130)]
    for length in (5, 130):
        engine.add(Request(f"r{length}", (1,) * length, SamplingParams(max_tokens=9, seed=3)))
    tokens = {"r5": (), "r130": ()}
    while engine.has_work:
        for event in engine.step():
            tokens[event.request_id] += event.token_ids
        if engine.num_steps % 4 == 0:
            engine.scheduler.preempt_all()
            assert engine.cache.ledger.slots.used == 0
    assert list(tokens.values()) == alone and is_empty(engine)


def test_a_released_cache_has_no_bytes_and_comes_back(model, clock):
    engine = make(model, clock)
    nbytes = engine.cache.nbytes
    engine.cache.release()
    assert engine.cache.nbytes == 0
    engine.cache.allocate()
    assert engine.cache.nbytes == nbytes and torch.count_nonzero(next(iter(engine.cache.layers[0].values()))) == 0
