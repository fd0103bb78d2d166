"""Runs one after the other in this process: each is done once, whatever comes between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from counted_runs import Counting, counted

from hyla.errors import CheckpointError, ConfigError
from hyla.study.execution import (
    Begun,
    Failed,
    Finished,
    Paused,
    Progress,
    Retried,
    Step,
    Stepped,
    attempt,
    execute,
    execute_all,
    on_ray,
)
from hyla.study.execution.progress import ask_to_stop, forget, read_step
from hyla.train.files import held

HERE = Path(__file__).parent
THREE = [Counting("first"), Counting("second"), Counting("third")]


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(attempt, "LOOK_SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


def carry_out(jobs, folder, how="count", **options):
    """The outcome, and the events without those of single steps."""
    events = []
    outcome = execute_all(jobs, folder=folder, execute=f"counted_runs:{how}", on_event=events.append, **options)
    return outcome, [event for event in events if not isinstance(event, Stepped)]


def result(folder, name):
    return json.loads((folder / "runs" / f"{name}.json").read_text())


def test_runs_are_done_in_order_and_leave_a_result_each_and_nothing_else(folder):
    outcome, events = carry_out(THREE, folder)
    assert outcome.finished == ("first", "second", "third") and not outcome.failed and not outcome.waiting
    assert outcome.status == 0
    said = [(type(event), event.name) for event in events]
    assert said == [(kind, job.name) for job in THREE for kind in (Begun, Finished)]
    assert events[1].result["run"] == "first" and events[1].seconds == 2.5
    assert len(result(folder, "second")["steps"]) == 5
    assert sorted(place.name for place in folder.rglob("*")) == sorted(
        ["runs", "first.json", "second.json", "third.json", "unfinished"]
    )


def test_what_is_finished_is_not_done_again(folder):
    carry_out(THREE[:2], folder)
    (folder / "runs" / "first.json").write_text('{"mine": 1}')
    (folder / "unfinished" / "first").mkdir(parents=True)  # killed between the result and the end of its folder
    outcome, events = carry_out(THREE, folder)
    assert outcome.finished == ("first", "second", "third")
    assert [type(event) for event in events] == [Finished, Finished, Begun, Finished]
    assert [event.is_old for event in events if isinstance(event, Finished)] == [True, True, False]
    assert result(folder, "first") == {"mine": 1} and not (folder / "unfinished" / "first").exists()


def test_a_run_that_fails_is_tried_again_after_the_others_and_then_named(folder):
    jobs = [Counting("bad"), *THREE[:2]]
    outcome, events = carry_out(jobs, folder, "misbehave")
    assert outcome.finished == ("first", "second") and outcome.waiting == () and outcome.status == 1
    assert outcome.failed == {"bad": "ValueError: no step 3 of this run"}
    tries = [(type(event), event.number) for event in events if event.name == "bad"]
    assert tries == [(Begun, 1), (Retried, 1), (Begun, 2), (Retried, 2), (Begun, 3), (Failed, 3)]
    assert [event.name for event in events if isinstance(event, Begun)] == ["bad", "first", "second", "bad", "bad"]
    told = json.loads((folder / "failed.json").read_text())["bad"]
    assert told["tries"] == 3 and told["told"] == "counting bad" and "in misbehave" in told["trace"]
    # The last try began anew, and is kept as it stands.
    assert len(counted(folder / "unfinished" / "bad")) == 3

    outcome, _ = carry_out(jobs, folder, "count")
    assert outcome.finished == ("bad", "first", "second") and outcome.status == 0
    assert len(result(folder, "bad")["steps"]) == 5 and not (folder / "failed.json").exists()


def test_what_cannot_be_is_not_tried_again(folder):
    outcome, events = carry_out([Counting("bad"), *THREE[:1]], folder, "ask_for_nothing")
    assert outcome.finished == ("first",) and outcome.failed == {"bad": "ConfigError: the text has changed"}
    tries = [(type(event), event.number) for event in events if event.name == "bad"]
    assert tries == [(Begun, 1), (Failed, 1)]
    assert json.loads((folder / "failed.json").read_text())["bad"]["tries"] == 1


def test_the_last_try_does_not_trust_what_is_left_of_the_others(folder):
    work = folder / "unfinished" / "first"
    work.mkdir(parents=True)
    (work / "steps").write_bytes(b"\xff\xff")
    outcome, events = carry_out(THREE[:1], folder, retries=1)
    assert outcome.finished == ("first",)
    assert [type(event) for event in events] == [Begun, Retried, Begun, Finished]
    assert "UnicodeDecodeError" in events[1].error


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("say_nothing", "a run returned a NoneType; its result must be a dict"),
        ("say_a_path", "is not JSON serializable"),
        ("give_up", "it stopped, and nobody had asked it to"),
    ],
)
def test_what_is_no_result_is_an_error_of_its_run(folder, how, error):
    outcome, events = carry_out(THREE[:1], folder, how, retries=0)
    assert error in outcome.failed["first"] and isinstance(events[-1], Failed)
    assert not list((folder / "runs").iterdir())


def test_a_stopped_study_goes_on_from_the_step(folder):
    jobs = [THREE[0], Counting("long", steps=200, pause=0.01), THREE[2]]

    def is_stopped():
        return len(counted(folder / "unfinished" / "long")) >= 3

    outcome, events = carry_out(jobs, folder, is_stopped=is_stopped)
    assert outcome.finished == ("first",) and outcome.waiting == ("long", "third")
    assert outcome.was_stopped and outcome.status == 130 and isinstance(events[-1], Paused)
    done = len(counted(folder / "unfinished" / "long"))
    assert 3 <= done < 200

    jobs[1] = Counting("long", steps=done + 2)
    outcome, _ = carry_out(jobs, folder)
    assert outcome.finished == ("first", "long", "third") and len(result(folder, "long")["steps"]) == done + 2


def test_no_run_begins_after_the_minutes_and_the_one_that_runs_stops(folder, monkeypatch):
    def monotonic(now=time.monotonic):
        """An hour is over once a step is done."""
        return now() + 3600.0 * bool(counted(folder / "unfinished" / "long"))

    monkeypatch.setattr(execute, "time", SimpleNamespace(monotonic=monotonic))
    jobs = [Counting("long", steps=10_000, pause=0.01), THREE[0]]
    outcome, events = carry_out(jobs, folder, minutes=30)
    assert outcome.is_out_of_time and not outcome.was_stopped and outcome.status == 0
    assert outcome.waiting == ("long", "first") and [type(event) for event in events] == [Begun, Paused]
    assert counted(folder / "unfinished" / "long")


def test_an_interrupted_run_leaves_the_folder_free_and_its_steps_in_it(folder):
    jobs = [THREE[0], Counting("bad")]
    with pytest.raises(KeyboardInterrupt):
        carry_out(jobs, folder, "interrupt")
    assert (folder / "runs" / "first.json").exists() and len(counted(folder / "unfinished" / "bad")) == 3
    outcome, _ = carry_out(jobs, folder, "interrupt")
    assert outcome.finished == ("first", "bad") and len(result(folder, "bad")["steps"]) == 5


DRIVER = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from counted_runs import Counting
from hyla.study.execution import execute_all
jobs = [Counting("first"), Counting("long", steps=100_000, pause=0.005)]
execute_all(jobs, folder=Path(sys.argv[1]), execute="counted_runs:count")
"""


def test_a_killed_driver_repeats_no_finished_run_and_goes_on_with_the_other(folder):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), str(HERE)])
    deadline = time.monotonic() + 120
    while len(counted(folder / "unfinished" / "long")) < 3:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(ConfigError, match="another process works in"):
        carry_out(THREE, folder)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    steps = len(counted(folder / "unfinished" / "long"))
    outcome, events = carry_out([Counting("first"), Counting("long", steps=steps + 2)], folder)
    assert outcome.finished == ("first", "long") and events[0] == Finished("first", is_old=True)
    processes = result(folder, "long")["steps"]
    assert processes == [str(driver.pid)] * steps + [str(os.getpid())] * 2


def test_a_process_that_is_about_to_end_is_waited_for(folder, monkeypatch):
    monkeypatch.setattr(attempt, "PATIENCE", 0.05)
    with held(folder / "unfinished" / "first.try"):
        outcome, _ = carry_out(THREE[:2], folder, retries=0)
    assert outcome.finished == ("second",) and "another process works in" in outcome.failed["first"]


def test_a_disk_that_takes_no_result_ends_the_study_and_nothing_is_lost(folder):
    (folder / "runs" / ".first.json.partial").mkdir(parents=True)  # in the way of the file
    with pytest.raises(CheckpointError, match=r"cannot write .*first\.json"):
        carry_out(THREE, folder)
    assert len(counted(folder / "unfinished" / "first")) == 5
    (folder / "runs" / ".first.json.partial").rmdir()
    assert carry_out(THREE, folder)[0].finished == ("first", "second", "third")


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        carry_out(THREE, tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers = 0"),
        ({"threads": 0}, "threads = 0"),
        ({"threads": 100_000}, "threads = 100000, and this process may use"),
        ({"retries": -1}, "retries = -1"),
        ({"minutes": 0}, "minutes = 0"),
        ({"how": "nothing"}, "names no function"),
        ({"how": "HERE"}, "names no function"),
    ],
)
def test_values_that_cannot_be_are_refused_before_anything_is_done(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        carry_out(THREE, folder, **options)
    assert not folder.exists()


def test_two_runs_of_one_name_are_refused(folder):
    with pytest.raises(ConfigError, match="two runs are called first"):
        carry_out([THREE[0], Counting("first", steps=9)], folder)


def test_whoever_shows_what_happens_and_fails_is_not_silent(folder):
    def show(event):
        if isinstance(event, Stepped):
            raise RuntimeError("the picture broke")

    outcome = execute_all(
        [Counting("long", steps=100_000, pause=0.001)],
        folder=folder,
        execute="counted_runs:count",
        on_event=show,
        retries=0,
    )
    assert outcome.failed == {"long": "RuntimeError: the picture broke"}


def test_several_workers_without_ray_are_told_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    for options in ({"workers": 2}, {"address": "127.0.0.1:6379"}):
        with pytest.raises(ConfigError, match=r"pip install 'hyla\[study\]'"):
            carry_out(THREE, folder, **options)


@pytest.mark.parametrize(
    "address", ["auto", "ray://127.0.0.1:1", "somewhere", "host:", ":6379", "host:port", "127.0.0.1:99999"]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match=r"is none|nobody answers"):
        on_ray.probe(address)


def test_an_address_where_nobody_is_is_an_error_within_seconds(free_port):
    with pytest.raises(ConfigError, match=f"nobody answers at address = '127.0.0.1:{free_port}'"):
        on_ray.probe(f"127.0.0.1:{free_port}")


@pytest.fixture
def free_port():
    """That nobody listens at."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_progress_writes_a_file_a_second_and_the_last_step(tmp_path):
    now = 100.0
    progress = Progress(tmp_path, clock=lambda: now)
    assert read_step(tmp_path) is None
    progress.tell(1, 10, 64)
    assert read_step(tmp_path) == Step(1, 10, 64, None)
    now = 100.9
    progress.tell(2, 10, 128)
    assert read_step(tmp_path) == Step(1, 10, 64, None)
    now = 102.0
    progress.tell(3, 10, 264)
    assert read_step(tmp_path) == Step(3, 10, 264, 100.0)
    now = 102.5
    progress.tell(10, 10, 640)
    assert read_step(tmp_path) == Step(10, 10, 640, 752.0)


def test_a_stop_is_for_the_process_that_was_asked(tmp_path):
    progress = Progress(tmp_path)
    assert not progress.is_stopped()
    ask_to_stop(tmp_path)
    assert progress.is_stopped()
    forget(tmp_path)
    assert not progress.is_stopped() and read_step(tmp_path) is None
    ask_to_stop(tmp_path / "gone")
