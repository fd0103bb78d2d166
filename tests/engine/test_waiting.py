import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from recording_mixer import SPEC, expected, read, write

from hyla.caches import Cache
from hyla.engine import Request, SamplingParams
from hyla.engine.generation import Generation
from hyla.engine.scheduling.scheduler import Scheduler
from hyla.engine.scheduling.waiting import MOST_DISPLACED, MOST_IDLE_KEYS, WaitingQueue, may_displace, rank, victim
from hyla.errors import RequestError


def generation(arrival, *, length=10, max_tokens=5, request_id=None, arrived=0.0, **fields):
    params = SamplingParams(max_tokens=max_tokens, seed=0)
    request = Request(request_id or f"r{arrival}", tuple(range(length)), params, **fields)
    return Generation(request, 0, arrival=arrival, eos_ids=(), tokenizer=None, arrived=arrived)


def fill(queue, *generations):
    for one in generations:
        queue.add(one)


def drain(queue):
    return [queue.pop().arrival for _ in range(len(queue))]


def test_the_order_is_priority_then_arrival():
    queue = WaitingQueue()
    fill(queue, *(generation(n, priority=priority) for n, priority in enumerate([1, 0, -3, 0, 1])))
    assert [one.arrival for one in queue] == [2, 1, 3, 0, 4]
    assert queue.peek().arrival == 2 and len(queue) == 5
    assert drain(queue) == [2, 1, 3, 0, 4]
    assert queue.peek() is None
    with pytest.raises(IndexError, match="nobody"):
        queue.pop()


def test_what_was_preempted_comes_before_its_equals_and_after_higher_priorities():
    queue = WaitingQueue()
    fill(queue, *(generation(n, key="b") for n in (3, 4)))
    queue.put_back(generation(2, key="a"))
    queue.put_back(generation(1, key="b"))
    queue.add(generation(5, priority=-1))
    assert drain(queue) == [5, 1, 2, 3, 4]


def test_counts_follow_what_waits():
    queue = WaitingQueue()
    fill(queue, generation(0, length=7, request_id="same"), generation(1, length=7, request_id="same"), generation(2))
    assert (queue.num_requests, len(queue), queue.num_tokens) == (2, 3, 24)
    first = queue.pop()
    assert (queue.num_requests, len(queue), queue.num_tokens) == (2, 2, 17)
    first.accept(9, None)
    queue.put_back(first)
    assert queue.num_tokens == 25 and first in queue
    for one in tuple(queue):
        queue.remove(one)
    assert (queue.num_requests, len(queue), queue.num_tokens) == (0, 0, 0)
    assert (queue.num_started, queue.num_started_tokens) == (1, 7)
    with pytest.raises(KeyError):
        queue.remove(first)


def test_while_only_what_started_may_start_everything_new_waits():
    queue = WaitingQueue()
    fill(queue, generation(1, priority=-1), generation(2))
    queue.put_back(generation(0, priority=3))
    queue.only_started = True
    assert queue.pop().arrival == 0 and queue.peek() is None
    queue.only_started = False
    assert queue.pop().arrival == 1


def test_a_deadline_is_reported_from_its_moment_on():
    queue = WaitingQueue()
    fill(queue, generation(0, deadline_seconds=2, arrived=5.0), generation(1))
    assert queue.expired(6.9) == []
    (late,) = queue.expired(7.0)
    assert late.arrival == 0
    queue.remove(late)
    assert queue.expired(100.0) == []


def test_keys_take_turns_by_tokens_not_by_requests():
    """Key a asks for prompts of 30 tokens, b for 10: b starts three requests for each of a's."""
    queue = WaitingQueue()
    fill(queue, *(generation(n, length=30, key="a") for n in range(20)))
    fill(queue, *(generation(20 + n, length=10, key="b") for n in range(20)))
    started = {"a": 0, "b": 0}
    for _ in range(20):
        one = queue.pop()
        queue.charge(one, 0, len(one.tokens))
        started[one.key] += 1
        assert abs(30 * started["a"] - 10 * started["b"]) <= 30
    assert started == {"a": 5, "b": 15}


def test_being_idle_earns_nothing():
    queue = WaitingQueue()
    fill(queue, *(generation(n, length=50, key="busy") for n in range(8)))
    for _ in range(4):
        queue.charge(queue.pop(), 0, 50)
    fill(queue, *(generation(10 + n, length=50, key="new") for n in range(4)))
    order = []
    while len(queue):
        one = queue.pop()
        queue.charge(one, 0, 50)
        order.append(one.key)
    assert order == ["busy", "new"] * 4


def test_a_key_that_left_with_a_debt_keeps_it():
    queue = WaitingQueue()
    fill(queue, generation(0, key="a"), generation(1, key="b"))
    first, second = queue.pop(), queue.pop()
    queue.charge(first, 0, 500)
    queue.charge(second, 0, 10)
    fill(queue, generation(2, key="b"), generation(3, key="a"), generation(4, key="b"))
    assert drain(queue) == [2, 4, 3]


def test_computing_again_is_not_charged_again():
    queue = WaitingQueue()
    one, other = generation(0, key="a"), generation(1, key="b")
    for _ in range(3):
        queue.charge(one, 0, 40)
    queue.charge(other, 0, 40)
    fill(queue, generation(2, key="b"), generation(3, key="a"), generation(4, key="b"))
    assert drain(queue) == [2, 3, 4]


def test_counters_of_many_idle_keys_are_bounded():
    queue = WaitingQueue()
    for n in range(5 * MOST_IDLE_KEYS):
        queue.add(generation(n, key=f"key {n}"))
        queue.charge(queue.pop(), 0, 10)
    (level,) = queue._levels.values()
    assert len(level.served) <= 2 * MOST_IDLE_KEYS + 2


def test_the_lowest_priority_gives_way_and_the_youngest_of_it():
    running = [generation(0, priority=1), generation(1, priority=1), generation(2)]
    assert victim(running).arrival == 1
    assert may_displace(running[2], running[0]) and not may_displace(running[0], running[1])
    running[1].num_displaced = MOST_DISPLACED
    assert not may_displace(running[2], running[1])
    assert victim(running).arrival == 0 and min(running, key=rank).arrival == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", 101),
        ("priority", 1.5),
        ("priority", True),
        ("key", 3),
        ("key", "k" * 257),
        ("cache_salt", None),
        ("deadline_seconds", 0),
        ("deadline_seconds", -1.0),
        ("deadline_seconds", float("nan")),
        ("deadline_seconds", float("inf")),
        ("deadline_seconds", 10**400),
        ("deadline_seconds", "soon"),
        ("deadline_seconds", True),
    ],
)
def test_a_wrong_field_of_a_request_is_named(name, value):
    with pytest.raises(RequestError, match=f"^{name} = ") as caught:
        Request("r", (1,), **{name: value})
    assert caught.value.param == name


def token_after(tokens):
    return (sum(tokens[-3:]) + len(tokens)) % 97


def run(scheduler):
    """One step over the recording mixer: its answer is what the cached state says, so a lost or foreign one shows."""
    parts = [(part.generation, part.num_known) for part in scheduler.plan()]
    if not parts:
        return []
    batch = scheduler.cache.batch([(one.sequence, count) for one, count in parts])
    tokens = []
    for (one, count), start in zip(parts, batch.starts):
        tokens += one.tokens[start : start + count]
    write(scheduler.cache.layers[0], batch, tokens)
    ended = []
    for one, count in parts:
        scheduler.cache.commit(one.sequence, count)
        if one.num_pending == 0:
            assert read(scheduler.cache.layers[0], one.sequence) == expected(one.tokens)
            if one.accept(token_after(one.tokens), None).finish_reason:
                scheduler.remove(one)
                ended.append(one)
    return ended


def test_a_higher_priority_takes_the_slot_and_the_lower_one_goes_on_afterwards():
    scheduler = make_scheduler(num_slots=2)
    low = [generation(n, priority=2, max_tokens=30) for n in range(2)]
    fill(scheduler, *low)
    run(scheduler)
    high = generation(2, max_tokens=3)
    scheduler.add(high)
    run(scheduler)
    assert high in scheduler.running and low[0] in scheduler.running and low[1].sequence is None
    ended = [one for _ in range(80) for one in run(scheduler)]
    assert [one.arrival for one in ended] == [2, 0, 1] and scheduler.num_preemptions == 1


def test_nobody_is_displaced_where_that_does_not_make_room():
    scheduler = make_scheduler(num_pages=6)
    fill(scheduler, generation(0, priority=-1, length=200, max_tokens=60), generation(1, priority=5, max_tokens=60))
    run(scheduler)
    scheduler.add(generation(2, length=190, max_tokens=60))
    run(scheduler)
    assert len(scheduler.running) == 2 and scheduler.num_preemptions == 0


def test_a_stream_of_higher_priorities_makes_nobody_start_again_and_again():
    scheduler = make_scheduler(num_slots=1, prefill_chunk=64)
    low = generation(0, priority=9, length=300, max_tokens=5)
    scheduler.add(low)
    for n in range(1, 60):
        run(scheduler)
        if low.num_output_tokens == 5:
            break
        if n % 3 == 0:
            scheduler.add(generation(n, max_tokens=1))
    assert low.num_output_tokens == 5 and low.num_displaced == MOST_DISPLACED and n < 40


def make_scheduler(*, num_pages=8, num_slots=3, prefill_chunk=100, max_batch_tokens=150):
    cache = Cache([SPEC], num_pages=num_pages, num_slots=num_slots)
    return Scheduler(cache, max_num_sequences=num_slots, prefill_chunk=prefill_chunk, max_batch_tokens=max_batch_tokens)


class RandomTraffic(RuleBasedStateMachine):
    """Any order of arrivals, steps, cancellations, deadlines and pauses: memory adds up, the order is kept, everybody
    ends exactly once, and no state is lost or mixed up (`run` reads it back)."""

    @initialize(
        num_pages=st.integers(3, 9),
        num_slots=st.integers(1, 4),
        prefill_chunk=st.sampled_from([1, 17, 64, 200]),
        max_batch_tokens=st.sampled_from([1, 9, 64, 300]),
    )
    def start(self, **sizes):
        self.most_tokens = sizes["num_pages"] * 64
        self.scheduler = make_scheduler(**sizes)
        self.unfinished, self.ended, self.now = set(), set(), 0.0
        self.count = 0

    @rule(
        length=st.integers(1, 300),
        max_tokens=st.integers(1, 70),
        priority=st.sampled_from([-1, 0, 0, 0, 4]),
        key=st.sampled_from("aab"),
        seconds=st.sampled_from([None, None, 1.0, 9.0]),
    )
    def arrives(self, length, max_tokens, priority, key, seconds):
        length = min(length, self.most_tokens - max_tokens)
        fields = dict(priority=priority, key=key, deadline_seconds=seconds, arrived=self.now)
        one = generation(self.count, length=length, max_tokens=max_tokens, **fields)
        self.count += 1
        self.unfinished.add(one)
        self.scheduler.add(one)

    @rule(steps=st.integers(1, 12))
    def steps(self, steps):
        for _ in range(steps):
            before = {one: list(one.tokens) for one in self.unfinished}
            for one in run(self.scheduler):
                self.end(one)
            for one, tokens in before.items():
                assert one.tokens[: len(tokens)] == tokens

    @precondition(lambda self: self.unfinished)
    @rule(n=st.integers(0, 99))
    def cancels(self, n):
        one = sorted(self.unfinished, key=lambda one: one.arrival)[n % len(self.unfinished)]
        self.scheduler.remove(one)
        self.end(one)

    @rule(seconds=st.sampled_from([0.4, 3.0]))
    def time_goes_by(self, seconds):
        self.now += seconds
        late = self.scheduler.expired(self.now)
        due = {one for one in self.unfinished if one.deadline is not None and one.deadline <= self.now}
        assert len(late) == len(due) and set(late) == due
        for one in late:
            self.scheduler.remove(one)
            self.end(one)

    @rule(is_held=st.booleans())
    def holds_new_ones(self, is_held):
        self.scheduler.waiting.only_started = is_held

    @rule()
    def everything_waits(self):
        self.scheduler.preempt_all()
        assert not self.scheduler.running

    def end(self, one):
        assert one in self.unfinished and one not in self.ended
        self.unfinished.remove(one)
        self.ended.add(one)

    @invariant()
    def adds_up(self):
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        scheduler.cache.ledger.check()
        assert scheduler.cache.ledger.slots.used == len(scheduler.running)
        assert scheduler.cache.ledger.pages.used == sum(len(one.sequence.pages) for one in scheduler.running)
        assert set(scheduler.running) | set(scheduler.waiting) == self.unfinished
        assert len(scheduler.running) + len(scheduler.waiting) == len(self.unfinished)
        assert [rank(one) for one in scheduler.running] == sorted(rank(one) for one in scheduler.running)
        assert scheduler.waiting.num_tokens == sum(len(one.tokens) for one in scheduler.waiting)
        self.keeps_the_order(list(scheduler.waiting))

    @staticmethod
    def keeps_the_order(waiting):
        assert [one.priority for one in waiting] == sorted(one.priority for one in waiting)
        new = [one for one in waiting if one.num_charged == 0]
        for group in {(one.priority, one.key) for one in new}:
            arrivals = [one.arrival for one in new if (one.priority, one.key) == group]
            assert arrivals == sorted(arrivals)

    def teardown(self):
        """Nobody starves: without new arrivals everybody ends, in a bounded number of steps."""
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.waiting.only_started = False
        work = sum(one.most_tokens for one in self.unfinished) * (len(self.unfinished) + 1)
        while self.unfinished:
            assert self.scheduler.waiting or self.scheduler.running
            for one in run(self.scheduler):
                self.end(one)
            work -= 1
            assert work >= 0
        assert self.scheduler.cache.ledger.slots.used == self.scheduler.cache.ledger.pages.used == 0


TestRandomTraffic = RandomTraffic.TestCase
TestRandomTraffic.settings = settings(max_examples=25, stateful_step_count=20)
