"""An engine's process that says nothing any more: it is noticed, ended and started again. A long step is none."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from test_engine_process import OPTIONS, is_running, request, wait_until
from test_engine_thread import Listener
from tiny_model import save_tiny_folder

from hyla.engine import EngineProcess, Launch, Overloaded
from hyla.engine.hosting import watching
from hyla.engine.hosting.heartbeat import Silence
from hyla.errors import HylaError

SILENCE = 4.0


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    folder = str(save_tiny_folder(tmp_path_factory.mktemp("silence") / "model"))
    return Launch(folder, OPTIONS, max_requests=50, silence_seconds=SILENCE, stop_seconds=3.0)


@pytest.fixture
def process(launch, monkeypatch):
    monkeypatch.setattr(watching, "QUIET_SECONDS", 2.0)
    process = EngineProcess(launch)
    process.start()
    yield process
    process.stop()


def pid_of(process):
    return process.status()["worker"]["pid"]


def test_a_stopped_process_is_ended_and_what_it_had_is_told_when_to_come_back(process):
    running, pid = Listener(), pid_of(process)
    process.submit(request("running", max_tokens=400), running)
    os.kill(pid, signal.SIGSTOP)
    waiting = [process.submitted(request(f"waiting{n}"), Listener()) for n in range(45)]
    assert wait_until(lambda: not process.is_alive, 20)
    assert process.status()["unfinished_requests"] >= 1  # known without the process
    with pytest.raises(Overloaded, match=r"has said nothing for \d+ s; .* try again in \d+ s"):
        process.submit(request("late"), Listener())
    assert running.done.wait(60) and running.events[-1].retry_after_seconds >= 1
    for future in waiting:
        with pytest.raises(Overloaded, match="said nothing for 4 s and was killed"):
            future.result(60)
    assert wait_until(lambda: process.num_restarts == 1) and not is_running(pid)
    again = Listener()
    process.submit(request("running"), again)
    assert again.done.wait(60) and again.events[-1].finish_reason == "length"
    assert "said nothing for 4 s" in process.status()["worker"]["last_end"]


def test_a_stopped_process_does_not_keep_the_end_waiting(launch):
    process = EngineProcess(replace(launch, silence_seconds=600.0))
    process.start()
    pid = pid_of(process)
    os.kill(pid, signal.SIGSTOP)
    lost = process.submitted(request("lost"), Listener())
    process.stop()
    assert wait_until(lambda: not is_running(pid), 20)
    with pytest.raises(HylaError, match="the engine has stopped"):
        lost.result(10)


@pytest.mark.slow
def test_a_stopped_process_that_nobody_started_to_use_does_not_either(launch):
    process = EngineProcess(launch)
    pid = process._child.pid
    os.kill(pid, signal.SIGSTOP)
    process.stop()
    assert not is_running(pid)


@pytest.mark.slow
def test_a_deadline_passes_though_the_process_is_stopped(launch, monkeypatch):
    monkeypatch.setattr(watching, "QUIET_SECONDS", 2.0)
    process = EngineProcess(replace(launch, silence_seconds=600.0))
    process.start()
    timed, taken = Listener(), Listener()
    process.pause("keep").result(60)
    process.submit(replace(request("taken"), deadline_seconds=1.0), taken)
    os.kill(pid_of(process), signal.SIGSTOP)
    opening = process.submitted(replace(request("timed"), deadline_seconds=1.0), timed)
    with pytest.raises(Overloaded, match="said nothing"):
        opening.result(30)
    assert taken.done.wait(30) and taken.events[-1].finish_reason in ("error", "deadline")
    os.kill(process._child.pid, signal.SIGCONT)
    assert wait_until(lambda: process.is_alive) and wait_until(lambda: process.num_requests == 0)
    assert wait_until(lambda: not process._due)
    process.stop()


def sleep_in_the_first_step():
    """In the engine's process: a step that takes longer than silence may."""
    from hyla.engine.engine import Engine

    step = Engine.step

    def slow(engine):
        Engine.step = step
        time.sleep(2 * SILENCE)
        return step(engine)

    Engine.step = slow


@pytest.mark.slow
def test_a_long_step_is_no_silence_and_is_told(launch):
    process = EngineProcess(replace(launch, prepare=sleep_in_the_first_step))
    process.start()
    try:
        listener = Listener()
        process.submit(request("slow"), listener)
        assert wait_until(lambda: process.status()["worker"]["step_seconds"] > SILENCE / 2)
        assert process.is_alive
        assert listener.done.wait(60) and listener.events[-1].finish_reason == "length"
        assert process.num_restarts == 0
    finally:
        process.stop()


def stop_before_the_engine():
    """In the engine's process, when it has given its first sign of life."""
    time.sleep(2.5)
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.slow
def test_a_process_that_stops_while_it_starts_is_an_error(launch):
    with pytest.raises(HylaError, match="said nothing for 4 s while it was starting"):
        EngineProcess(replace(launch, prepare=stop_before_the_engine))


def sleep_instead_of_loading():
    """In the engine's process, and in place of what ends with the other side."""
    time.sleep(600)


@pytest.mark.slow
def test_a_process_that_loads_does_not_outlive_its_server(launch):
    """A server that is killed then can say nothing to it."""
    code = (
        "import multiprocessing, os, threading, time, test_silence; from hyla.engine import EngineProcess, Launch\n"
        "def tell():\n    time.sleep(4); print(multiprocessing.active_children()[0].pid, flush=True); os._exit(0)\n"
        "if __name__ == '__main__':\n    threading.Thread(target=tell).start()\n"
        f"    EngineProcess(Launch({launch.folder!r}, prepare=test_silence.sleep_instead_of_loading))"
    )
    source = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PYTHONPATH": source}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert wait_until(lambda: not is_running(int(told.stdout)), 20)


def test_silence_is_counted_by_who_listens():
    silence = Silence()
    assert [silence.tick() for _ in range(3)] == [1.0, 2.0, 3.0]
    silence.broken()
    assert silence.seconds == 0.0
