"""Pausing, sleeping and new weights on the engine's thread."""

import threading

import pytest
from tiny_text import tiny_model

import hyla
from hyla.engine import Administration, Engine, EngineThread, Overloaded, Request, SamplingParams
from hyla.errors import CheckpointError, HylaError, RequestError

MEMORY = 24 << 20
LONG = SamplingParams(max_tokens=70, temperature=0, ignore_eos=True, logprobs=0)
SHORT = LONG.model_copy(update={"max_tokens": 5})


class Listener:
    """Collects events; `done` after the last choice. `at_first` is called on the engine's thread with the first event,
    so what it asks for is done before the next step."""

    def __init__(self, wanted=1, at_first=None):
        self.events, self._left, self._at_first = [], wanted, at_first
        self.started, self.done = threading.Event(), threading.Event()
        self.asked = None

    def __call__(self, event):
        self.events.append(event)
        if not self.started.is_set() and self._at_first:
            self.asked = self._at_first()
        self.started.set()
        self._left -= event.finish_reason is not None
        if not self._left:
            self.done.set()

    @property
    def tokens(self):
        return tuple(token for event in self.events for token in event.token_ids)

    @property
    def reason(self):
        return self.events[-1].finish_reason


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with other weights."""
    folder = tmp_path_factory.mktemp("weights") / "new"
    hyla.save(tiny_model(seed=8), folder)
    return folder


@pytest.fixture
def engine():
    return Engine(tiny_model(), memory=MEMORY, max_num_sequences=2, max_queued_requests=3)


@pytest.fixture
def thread(engine):
    thread = EngineThread(engine)
    thread.start()
    yield thread
    thread.stop()
    engine.cache.ledger.check()
    assert engine.cache.ledger.slots.used == engine.cache.ledger.pages.used == 0 and not engine.has_work


def submit(thread, name, params=SHORT, **fields):
    listener = Listener(params.n)
    thread.submit(Request(name, (1, 2, 3), params, **fields), listener)
    return listener


def submit_and(at_first, thread, params=LONG):
    """(listener, what `at_first` gave when the first token was there)."""
    listener = Listener(at_first=at_first)
    thread.submit(Request("running", (1, 2, 3), params), listener)
    assert listener.started.wait(60)
    return listener, listener.asked


def paused_while_running(thread):
    running, paused = submit_and(lambda: thread.pause("keep"), thread)
    assert paused.result(60)["running"] == 1 and len(running.tokens) == 1
    return running


def solo(seed, prompt, params):
    (done,) = Engine(tiny_model(seed=seed), memory=MEMORY).generate([prompt], params)
    return done.token_ids


def test_a_kept_request_goes_on_after_the_pause_as_if_nothing_had_happened(thread, engine):
    running = paused_while_running(thread)
    status = thread.status()
    assert status["state"] == "paused" and status["running"] == 1 == status["unfinished_requests"]
    waiting = submit(thread, "waiting")
    assert thread.call(lambda: engine.num_steps).result(60) == thread.call(lambda: engine.num_steps).result(60) == 1
    assert len(running.events) == 1 and not waiting.events
    assert thread.resume().result(60)["state"] == "running"
    assert running.done.wait(60) and waiting.done.wait(60)
    assert running.tokens == solo(3, [1, 2, 3], LONG)


def test_a_drain_finishes_what_runs_and_starts_nothing(thread, engine):
    waiting = Listener()
    late = Request("waiting", (5, 6), SHORT)
    running, future = submit_and(lambda: (thread.pause("finish"), thread.submit(late, waiting))[0], thread)
    status = future.result(60)
    assert status["state"] == "paused" and status["running"] == 0 and status["waiting"]["requests"] == 1
    assert running.done.is_set() and len(running.tokens) == 70 and not waiting.events
    thread.resume()
    assert waiting.done.wait(60)


def test_an_aborting_pause_ends_everything_and_stays_paused(thread):
    running = paused_while_running(thread)
    waiting = submit(thread, "two", LONG)
    third = submit(thread, "third", LONG.model_copy(update={"n": 2}))
    assert thread.pause("abort").result(60)["unfinished_requests"] == 0
    for one in (running, waiting, third):
        assert one.done.wait(60) and one.reason == "cancelled"
    later = submit(thread, "later")
    assert thread.status()["state"] == "paused" and not later.events
    thread.resume()
    assert later.done.wait(60) and later.reason == "length"


def test_cancellations_deadlines_and_limits_hold_during_a_pause(thread):
    thread.pause("keep").result(60)
    listeners = [submit(thread, f"r{n}", deadline_seconds=0.05 if n == 1 else None) for n in range(4)]
    thread.cancel("r0")
    assert listeners[0].done.wait(60) and listeners[0].reason == "cancelled"
    assert listeners[1].done.wait(60) and listeners[1].reason == "deadline"
    for n in range(4, 7):
        submit(thread, f"r{n}")
    with pytest.raises(Overloaded, match="max_queued_requests"):
        submit(thread, "one too many")
    thread.pause("abort").result(60)


def test_a_later_order_takes_the_place_of_a_drain(thread):
    def change_of_mind():
        return thread.pause("finish"), thread.resume(), thread.pause("finish"), thread.pause("abort")

    running, (drain, resumed, again, abort) = submit_and(change_of_mind, thread)
    assert resumed.result(60)["state"] == "running" and abort.result(60)["unfinished_requests"] == 0
    for superseded in (drain, again):
        with pytest.raises(HylaError, match="took the place"):
            superseded.result(60)
    assert running.reason == "cancelled"


@pytest.mark.parametrize("mode", ["finish", "keep", "abort"])
def test_new_weights_answer_like_a_new_engine(thread, weights, mode):
    thread.pause(mode).result(60)
    status = thread.update_weights(weights).result(60)
    assert status["weights_version"] == 2 and status["state"] == "paused"
    thread.resume()
    after = submit(thread, "after")
    assert after.done.wait(60) and after.tokens == solo(8, [1, 2, 3], SHORT)


def test_a_kept_request_is_computed_again_with_the_new_weights(thread, weights):
    running = paused_while_running(thread)
    old = running.tokens
    assert thread.update_weights(weights).result(60)["running"] == 0
    thread.resume()
    assert running.done.wait(60) and running.tokens[: len(old)] == old
    left = LONG.model_copy(update={"max_tokens": 70 - len(old)})
    assert running.tokens[len(old) :] == solo(8, [1, 2, 3, *old], left)


def test_weights_that_do_not_fit_change_nothing(thread, engine, tmp_path):
    with pytest.raises(HylaError, match="is running; to update the weights, pause it"):
        thread.update_weights(tmp_path).result(60)
    running = paused_while_running(thread)
    with pytest.raises(CheckpointError):
        thread.update_weights(tmp_path).result(60)
    with pytest.raises(CheckpointError, match="no tensor of this model in the given tensors"):
        thread.update_weights({"foreign": engine.model.norm.weight}).result(60)
    assert thread.status()["weights_version"] == 1 and thread.status()["running"] == 1
    thread.resume()
    assert running.done.wait(60) and running.tokens == solo(3, [1, 2, 3], LONG)


def test_a_failure_half_way_leaves_an_engine_that_waits_for_whole_weights(thread, engine, weights, monkeypatch):
    thread.pause("keep").result(60)
    from hyla.checkpoints.placement import Placer

    whole = Placer.place

    def fail(self, rule):
        if "sublayers.2.norm.weight" in rule.ours:
            raise OSError("disk gone")
        whole(self, rule)

    monkeypatch.setattr(Placer, "place", fail)
    with pytest.raises(OSError, match="disk gone"):
        thread.update_weights(weights).result(60)
    monkeypatch.undo()
    assert not thread.status()["has_weights"] and thread.status()["weights_version"] == 1
    with pytest.raises(HylaError, match="no whole set of weights"):
        thread.resume().result(60)
    thread.update_weights(weights).result(60)
    thread.resume().result(60)
    after = submit(thread, "after")
    assert after.done.wait(60) and after.tokens == solo(8, [1, 2, 3], SHORT)


@pytest.mark.parametrize("release_weights", [False, True])
def test_a_sleeping_engine_holds_no_cache_and_goes_on_after_it(thread, engine, weights, release_weights):
    running = paused_while_running(thread)
    old, nbytes = running.tokens, engine.cache.nbytes
    status = thread.sleep(release_weights=release_weights).result(60)
    assert (status["state"], status["cache_bytes"], status["running"]) == ("asleep", 0, 0)
    assert all(parameter.is_meta for parameter in engine.model.parameters()) == release_weights
    for wrong in (thread.resume, lambda: thread.pause("keep"), lambda: thread.update_weights(weights)):
        with pytest.raises(HylaError, match="asleep"):
            wrong().result(60)
    waiting, gone = submit(thread, "waiting"), submit(thread, "gone", deadline_seconds=0.01)
    assert gone.done.wait(60) and gone.reason == "deadline"
    assert thread.wake().result(60)["cache_bytes"] == nbytes
    if release_weights:
        with pytest.raises(HylaError, match="no whole set of weights"):
            thread.resume().result(60)
        thread.update_weights(weights).result(60)
    thread.resume().result(60)
    assert running.done.wait(60) and waiting.done.wait(60)
    seed, left = 8 if release_weights else 3, LONG.model_copy(update={"max_tokens": 70 - len(old)})
    assert running.tokens == old + solo(seed, [1, 2, 3, *old], left)


def test_requests_that_the_engine_has_not_seen_yet_count_towards_the_limits(engine):
    thread = EngineThread(engine)
    listeners = [submit(thread, f"r{n}") for n in range(5)]
    with pytest.raises(Overloaded, match="3 requests with 15 tokens wait already") as caught:
        submit(thread, "one too many")
    assert caught.value.retry_after_seconds == 1
    thread.start()
    assert all(one.done.wait(60) and one.reason == "length" for one in listeners)
    thread.stop()


def test_stopping_answers_every_order_and_refuses_new_ones(engine):
    thread = EngineThread(engine)
    early = thread.pause("finish")
    thread.start()
    assert early.result(60)["state"] == "paused"
    thread.resume().result(60)
    endless = LONG.model_copy(update={"max_tokens": 500})
    _, drain = submit_and(lambda: thread.pause("finish"), thread, endless)
    thread.stop()
    with pytest.raises(HylaError, match="has stopped"):
        drain.result(60)
    with pytest.raises(Overloaded, match="shutting down"):
        thread.resume()


def test_a_wrong_mode_and_an_engine_that_is_awake_are_named(engine):
    administration = Administration(engine)
    with pytest.raises(RequestError, match="mode = 'now'"):
        administration.pause("now")
    with pytest.raises(HylaError, match="running, not asleep"):
        administration.wake()
    with pytest.raises(HylaError, match="pause it"):
        administration.sleep()
    administration.pause("finish")
    assert administration.state == "paused" and not administration.may_step
