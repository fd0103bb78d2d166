"""Runs through Ray, with real processes that die. `make study-drills`; skipped where Ray is not installed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from counted_runs import Counting, counted

from hyla.errors import ConfigError
from hyla.study.execution import Begun, Finished, Retried, Stepped, execute_all

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
HERE = Path(__file__).parent
PATIENCE = 120.0


@pytest.fixture(autouse=True)
def paths_of_workers(monkeypatch):
    """They are new processes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, sys.path)]))
    yield
    assert not ray.is_initialized()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


def carry_out(jobs, folder, how="count", **options):
    events = []
    options = {"workers": 2, **options}
    outcome = execute_all(jobs, folder=folder, execute=f"counted_runs:{how}", on_event=events.append, **options)
    return outcome, events


def result(folder, name):
    return json.loads((folder / "runs" / f"{name}.json").read_text())


def wait_until(is_true, process=None):
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.02)


def test_two_workers_run_two_at_once_with_their_threads(folder):
    threads = min(2, len(os.sched_getaffinity(0)))
    outcome, _ = carry_out([Counting("one"), Counting("other")], folder, "say_threads", threads=threads)
    assert outcome.finished == ("one", "other")
    one, other = result(folder, "one"), result(folder, "other")
    assert one["process"] != other["process"] and os.getpid() not in (one["process"], other["process"])
    assert one["threads"] == other["threads"] == threads


def test_a_killed_worker_s_run_goes_on_in_another_and_the_others_do_not_notice(folder):
    jobs = [Counting("bad", steps=6), *(Counting(f"run {number}") for number in range(4))]
    outcome, events = carry_out(jobs, folder, "die_once")
    assert len(outcome.finished) == 5 and outcome.status == 0
    (retried,) = [event for event in events if isinstance(event, Retried)]
    assert retried.name == "bad" and "WorkerCrashedError" in retried.error
    steps = result(folder, "bad")["steps"]
    assert len(steps) == 6 and len(set(steps)) == 2 and len(set(steps[:3])) == 1
    assert list((folder / "unfinished").iterdir()) == []


def test_a_run_that_fails_is_named_and_the_others_are_done(folder):
    jobs = [Counting("bad"), Counting("good"), Counting("better")]
    outcome, events = carry_out(jobs, folder, "misbehave", retries=1)
    assert outcome.finished == ("good", "better") and outcome.status == 1
    assert outcome.failed == {"bad": "ValueError: no step 3 of this run"}
    assert "in misbehave" in json.loads((folder / "failed.json").read_text())["bad"]["trace"]
    assert [event.number for event in events if isinstance(event, Begun) and event.name == "bad"] == [1, 2]


def test_all_that_run_stop_when_asked_and_go_on_later(folder):
    jobs = [Counting(name, steps=100_000, pause=0.02) for name in ("one", "other", "third")]
    seen = set()

    def watch(event):
        if isinstance(event, Stepped):
            seen.add(event.name)

    outcome = execute_all(
        jobs,
        folder=folder,
        execute="counted_runs:count",
        workers=2,
        on_event=watch,
        is_stopped=lambda: seen == {"one", "other"},
    )
    assert outcome.waiting == ("one", "other", "third") and outcome.status == 130
    done = {name: len(counted(folder / "unfinished" / name)) for name in ("one", "other")}
    assert min(done.values()) > 0 and not (folder / "unfinished" / "third").exists()
    outcome, _ = carry_out([Counting(name, steps=count + 1) for name, count in done.items()], folder)
    assert outcome.finished == ("one", "other")
    for name, count in done.items():
        assert len(result(folder, name)["steps"]) == count + 1


DRIVER = """
import sys
from pathlib import Path
from counted_runs import Counting
from hyla.study.execution import execute_all
jobs = [Counting("quick"), *(Counting(f"long {number}", steps=100_000, pause=0.02) for number in range(2))]
execute_all(jobs, folder=Path(sys.argv[1]), execute="counted_runs:count", workers=2)
"""


def test_a_killed_driver_takes_its_workers_along_and_its_runs_go_on(folder):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)])
    names = ("long 0", "long 1")
    wait_until(lambda: all(len(counted(folder / "unfinished" / name)) > 3 for name in names), driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    # Their workers are gone or about to: what they still count until then is theirs.
    outcome, events = carry_out([Counting("quick"), *(Counting(name, steps=5_000) for name in names)], folder)
    assert outcome.finished == ("quick", *names) and Finished("quick", is_old=True) in events
    for name in names:
        steps = result(folder, name)["steps"]
        change = steps.index(steps[-1])
        assert len(steps) == 5_000 and 3 < change < 5_000
        assert len(set(steps[:change])) == 1 and len(set(steps[change:])) == 1


def test_a_run_that_needs_more_memory_than_there_is_is_named(folder, monkeypatch):
    """Ray's watch over memory, at a limit that everything is over."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    jobs = [Counting("large", steps=100_000, pause=0.02)]
    outcome, _ = carry_out(jobs, folder, retries=1)
    assert "OutOfMemoryError" in outcome.failed["large"] and outcome.status == 1


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_an_address_where_nobody_is_is_a_clear_error(folder):
    began = time.monotonic()
    with pytest.raises(ConfigError, match="nobody answers at address"):
        carry_out([Counting("one")], folder, address=f"127.0.0.1:{free_port()}")
    assert time.monotonic() - began < 30 and not list((folder / "runs").iterdir())


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two nodes on this machine, of which only the one that is not the driver's computes."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    found = Cluster()
    try:
        found.add_node(num_cpus=0, include_dashboard=False)
        found.add_node(num_cpus=2)
        yield found
    finally:
        found.shutdown()


def test_the_workers_of_a_cluster_need_none_of_the_driver_s_disks(folder, cluster, tmp_path):
    jobs = [Counting("bad", steps=6), *(Counting(f"run {number}") for number in range(2))]
    folders = set()

    def watch(event):
        folders.update(place.parent for place in tmp_path.rglob("steps"))

    outcome = execute_all(
        [*jobs, Counting("slow", pause=0.5)],
        folder=folder,
        execute="counted_runs:die_once",
        workers=2,
        address=cluster.address,
        on_event=watch,
    )
    assert len(outcome.finished) == 4 and outcome.status == 0
    assert len(result(folder, "bad")["steps"]) == 6
    assert not (folder / "unfinished").exists()
    work = tmp_path / "elsewhere" / "hyla" / "study"
    assert work / "slow" in folders and not list(work.rglob("steps"))

    with pytest.raises(ConfigError, match=r"no machine of the cluster at .* has more than 2 processors"):
        carry_out([Counting("another")], folder, address=cluster.address, threads=3)
