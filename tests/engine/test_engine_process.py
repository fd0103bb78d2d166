"""An engine in a process of its own: the same answers, and what happens when the process dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from test_engine_thread import Listener
from tiny_model import save_tiny_folder

from hyla.engine import EmbedCommand, Engine, EngineProcess, EngineThread, Launch, Overloaded, Request, SamplingParams
from hyla.engine.hosting import newborn
from hyla.engine.hosting.child import Child
from hyla.engine.requests.collect import Collector
from hyla.errors import CheckpointError, ConfigError, HylaError, RequestError

OPTIONS = {"memory": 24 << 20, "max_num_sequences": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_folder(tmp_path_factory.mktemp("process") / "model"))


@pytest.fixture
def process(folder):
    process = EngineProcess(Launch(folder, OPTIONS, max_requests=3))
    process.start()
    yield process
    process.stop()
    assert process.num_requests == 0


def request(name, n=1, **params):
    return Request(name, (1, 2, 3), SamplingParams(n=n, **({"max_tokens": 8, "ignore_eos": True} | params)))


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def hold_steps(go):
    """In the engine's process: behind the first events, a step waits until this file is there or the engine stops."""
    start, step, threads, told = EngineThread.start, Engine.step, [], []

    def started(thread):
        threads.append(thread)
        start(thread)

    def held(engine):
        while told and not Path(go).exists() and not threads[0]._is_stopping:
            time.sleep(0.01)
        events = step(engine)
        told.extend(events)
        return events

    EngineThread.start, Engine.step = started, held


@pytest.fixture
def held(folder, tmp_path):
    """A process that holds its steps until `go` is there."""
    process = EngineProcess(Launch(folder, OPTIONS, prepare=partial(hold_steps, str(tmp_path / "go"))))
    process.start()
    yield process
    process.stop()
    assert process.num_requests == 0


def kill(process):
    """Kill the engine's process and wait until it runs again."""
    before = process.num_restarts
    os.kill(process.status()["worker"]["pid"], signal.SIGKILL)
    assert wait_until(lambda: process.num_restarts > before)


def test_a_process_that_was_expected_becomes_the_next_engine_and_only_that(folder):
    newborn.expect()
    expected = newborn._expected[-1]  # command lines that other tests ran may have left one, too
    process = EngineProcess(Launch(folder, OPTIONS))
    try:
        assert process.status()["worker"]["pid"] == expected.process.pid
        other = newborn.take()
        other.connection.close()
        assert other.process.pid != expected.process.pid
    finally:
        process.stop()


def test_a_process_that_nobody_gives_an_engine_ends():
    unused = newborn.Newborn()
    unused.connection.close()
    unused.process.join(60)
    assert unused.process.exitcode == 0


def test_starting_is_given_up_when_asked(folder):
    give_up = threading.Event()
    give_up.set()
    with pytest.raises(HylaError, match="given up"):
        EngineProcess(Launch(folder, OPTIONS), give_up=give_up)


def test_answers_are_those_of_an_engine_here(process, folder):
    asked, listener = request("a", n=2, seed=5, logprobs=2), Listener(wanted=2)
    resolved = process.submit(asked, listener)
    assert listener.done.wait(60)
    collector = Collector(resolved)
    for event in listener.events:
        collector.add(event)
    engine = Engine(folder, **OPTIONS)
    own = engine.generate((1, 2, 3), asked.params)
    assert collector.completions() == [replace(completion, request_id="a") for completion in own]
    assert process.facts == engine.facts()
    numbers = process.status()
    assert numbers["ledger"]["slots"]["used"] == 0 and numbers["steps"] == engine.status()["steps"]


def test_vectors_and_administration_go_over_the_pipe(process):
    vector = process.embed(EmbedCommand((5, 6, 7))).result(60)
    assert len(vector) == process.facts.hidden_dim and sum(value * value for value in vector) == pytest.approx(1.0)
    assert process.pause("keep").result(60)["state"] == "paused"
    with pytest.raises(HylaError, match="not asleep"):
        process.wake().result(60)
    waiting = Listener()
    process.submit(request("w"), waiting)
    assert process.resume().result(60)["state"] == "running"
    assert waiting.done.wait(60)


def test_what_is_wrong_with_a_request_is_raised_where_it_was_submitted(process):
    with pytest.raises(RequestError, match="token id 99999") as caught:
        process.submit(Request("bad", (99999,)), Listener())
    assert caught.value.param == "prompt"
    with pytest.raises(RequestError, match="the text holds token id 99999"):
        process.embed(EmbedCommand((99999,)))
    assert process.num_requests == 0


def test_a_name_in_use_and_too_many_requests_are_refused(process):
    listeners = [Listener() for _ in range(3)]
    process.pause("keep").result(60)
    for n, listener in enumerate(listeners):
        process.submit(request(f"r{n}"), listener)
    with pytest.raises(RequestError, match="'r1' is in use"):
        process.submit(request("r1"), Listener())
    with pytest.raises(Overloaded, match="3 requests are unfinished") as caught:
        process.submit(request("r3"), Listener())
    assert caught.value.retry_after_seconds >= 1
    for n, listener in enumerate(listeners):
        process.cancel(f"r{n}")
        assert listener.done.wait(60) and listener.events[-1].finish_reason == "cancelled"


def test_a_folder_that_cannot_be_loaded_is_an_error_here(folder, tmp_path):
    with pytest.raises(CheckpointError, match="has no config"):
        EngineProcess(Launch(str(tmp_path)))
    with pytest.raises(ConfigError, match="no_such_option"):
        EngineProcess(Launch(folder, {"no_such_option": 1}))


def test_a_killed_process_ends_its_requests_clearly_and_runs_again(held, tmp_path):
    process, listener = held, Listener(wanted=2)
    process.submit(request("long", n=2, max_tokens=400), listener)
    assert wait_until(lambda: listener.events)
    kill(process)
    (tmp_path / "go").touch()
    assert listener.done.wait(10)
    lost = [event for event in listener.events if event.finish_reason is not None]
    assert [event.finish_reason for event in lost] == ["error", "error"]
    assert "killed by signal 9 (SIGKILL" in lost[0].error and "try again in" in lost[0].error
    assert lost[0].retry_after_seconds >= 1
    told = process.status()
    assert told["state"] == "running" and told["worker"]["restarts"] == 1 and "SIGKILL" in told["worker"]["last_end"]
    again = Listener()
    process.submit(request("long"), again)
    assert again.done.wait(60) and again.events[-1].finish_reason == "length"


def test_while_there_is_no_process_requests_are_told_when_to_come_back(process, monkeypatch):
    may_start, start = threading.Event(), Child.__init__

    def later(child, *given, **more):
        may_start.wait(60)
        start(child, *given, **more)

    monkeypatch.setattr(Child, "__init__", later)
    os.kill(process.status()["worker"]["pid"], signal.SIGKILL)
    assert wait_until(lambda: "SIGKILL" in (process.status()["worker"]["last_end"] or ""))
    with pytest.raises(Overloaded, match="killed by signal 9") as caught:
        process.submit(request("early"), Listener())
    assert caught.value.retry_after_seconds >= 1
    assert process.status()["state"] == "starting"
    may_start.set()
    assert wait_until(lambda: process.is_alive)


def test_an_engine_that_was_changed_comes_back_paused(process, folder):
    process.pause("keep").result(60)
    assert process.update_weights(folder).result(60)["weights_version"] == 2
    process.resume().result(60)
    kill(process)
    assert wait_until(lambda: process.status()["state"] == "paused")
    assert process.status()["weights_version"] == 1
    assert process.resume().result(60)["state"] == "running"


def test_stopping_ends_what_runs_and_what_is_being_started_again(held, folder):
    process, listener = held, Listener()
    process.submit(request("running", max_tokens=400), listener)
    assert wait_until(lambda: listener.events)
    process.stop()
    assert listener.events[-1].finish_reason == "cancelled" and not process.is_alive
    with pytest.raises(Overloaded, match="shutting down"):
        process.submit(request("late"), Listener())
    dying = EngineProcess(Launch(folder, OPTIONS))
    dying.start()
    os.kill(dying.status()["worker"]["pid"], signal.SIGKILL)
    assert wait_until(lambda: not dying.is_alive)
    begun = time.monotonic()
    dying.stop()
    assert time.monotonic() - begun < 10


def test_a_process_that_nobody_talks_to_any_more_ends(folder):
    code = (
        f"from hyla.engine import EngineProcess, Launch; import os, time\n"
        f"if __name__ == '__main__':\n    own = EngineProcess(Launch({folder!r}, {OPTIONS!r})); own.start()\n"
        f"    print(own.status()['worker']['pid'], flush=True); os._exit(0)"
    )
    source = os.pathsep.join(path for path in sys.path if path)
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=120,
    )
    pid = int(told.stdout)
    assert wait_until(lambda: not is_running(pid))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_cancel_before_a_request_is_taken_reaches_it(process, monkeypatch):
    """The client may go away while its request is still being checked."""
    taken, listener, send = threading.Event(), Listener(), type(process._child).send

    def cancel_first(child, message):
        send(child, message)
        if getattr(message, "verb", None) == "submit":
            threading.Thread(target=lambda: (process.cancel("early"), taken.set())).start()

    process.pause("keep").result(60)
    monkeypatch.setattr(type(process._child), "send", cancel_first)
    process.submit(request("early", max_tokens=400), listener)
    assert taken.wait(10) and listener.done.wait(60) and listener.events[-1].finish_reason == "cancelled"


def test_long_requests_and_many_events_do_not_wait_for_each_other(process):
    """Both directions of the pipe are full at times: prompts of a megabyte each, refused, while answers stream."""
    listener = Listener(wanted=4)
    process.submit(request("streams", n=4, max_tokens=400, logprobs=20), listener)
    huge = tuple(range(250)) * 1200
    for n in range(40):
        with pytest.raises(RequestError, match="300000 tokens"):
            process.submit(Request(f"huge{n}", huge), Listener())
        process.status()
    assert listener.done.wait(60) and listener.events[-1].finish_reason == "length"
