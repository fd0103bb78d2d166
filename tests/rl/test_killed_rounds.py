"""A process that ends at any moment: the same answers, rewards and weights in the end, bit for bit."""

import subprocess
import sys
from contextlib import contextmanager

import pytest
from tiny_rl import finished, outcome, request_of, write_start

from hyla.errors import CheckpointError, ConfigError
from hyla.rl.run import open_rl_run
from hyla.rl.samples import RoundFile

STEPS = 4
REQUEST = {"policy": {"updates_per_round": 2}, "steps": STEPS, "checkpoint_every": 1}


class Killed(BaseException):
    """What no handler catches."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("rl"))


def request(folder):
    return request_of(folder, heldout={"tasks": str(folder / "heldout.jsonl"), "every": 1}, **REQUEST)


@pytest.fixture(scope="module")
def whole(folder):
    return outcome(finished(folder / "whole", request(folder)).folder)


def killed_at(monkeypatch, place, moment):
    """Let the n-th call of a function be its process's last: before, or (a torn line) in the middle of it."""
    owner, name = place
    true, calls = getattr(owner, name), []

    def call(self, *arguments, **named):
        calls.append(None)
        if len(calls) == moment:
            if name == "_append":
                with self.path.open("a") as file:
                    file.write('{"group": 1, "mem')
            raise Killed
        return true(self, *arguments, **named)

    monkeypatch.setattr(owner, name, call)


def places():
    from hyla.rl.policy import PolicyTrainer
    from hyla.rl.rewards import Rewards
    from hyla.train.run_state import StateMaker

    return {
        "in the middle of a line of answers": ((RoundFile, "_append"), 3),
        "in the next round": ((RoundFile, "_append"), 12),
        "before the rewards": ((Rewards, "of"), 2),
        "before an update": ((PolicyTrainer, "_losses"), 4),
        "before a checkpoint": ((StateMaker, "save"), 2),
    }


@pytest.mark.parametrize("where", places())
def test_a_run_that_ended_anywhere_goes_on_bit_for_bit(folder, whole, where, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        killed_at(patched, *places()[where])
        with pytest.raises(Killed):
            finished(tmp_path / "run", request(folder))
    assert outcome(finished(tmp_path / "run", request(folder)).folder) == whole


STOPS = """
import signal, sys, time
signal.alarm(600)
sys.path[:0] = sys.argv[3:]
from pathlib import Path
import torch
torch.set_num_threads(1)
from hyla.rl.samples import RoundFile
from hyla.rl.turns import TurnFile
from {module} import finished, request

def stopping(add):
    def stop(file, *given):
        add(file, *given)
        if file.path.name == {name!r}:
            print("written", flush=True)
            time.sleep(600)
    return stop

for kind in (RoundFile, TurnFile):
    kind.add = stopping(kind.add)
finished(Path(sys.argv[2]), request(Path(sys.argv[1]), **{more!r}))
"""


@contextmanager
def stopped_once_written(module, folder, out, name, **more):
    """A process with the run of a test module's `request`, which goes no further than the first that it writes to this
    file of its rollouts. It is killed in the end."""
    code = STOPS.format(module=module, name=name, more=more)
    command = [sys.executable, "-c", code, str(folder), str(out), *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "written\n"
            assert (out / "rollouts" / name).stat().st_size
            yield process
        finally:
            process.kill()


def test_a_process_that_is_killed_goes_on_bit_for_bit(folder, whole, tmp_path):
    out = tmp_path / "run"
    with stopped_once_written("test_killed_rounds", folder, out, "round-000000.jsonl") as process:
        process.kill()
    assert outcome(finished(out, request(folder)).folder) == whole


def test_answers_whose_weights_are_gone_are_an_error(folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        killed_at(patched, places()["before a checkpoint"][0], 2)
        with pytest.raises(Killed):
            finished(out, request(folder))
    (out / "rollouts" / "round-000000.jsonl").unlink()
    with pytest.raises(CheckpointError, match="the weights that gave its answers are gone"):
        finished(out, request(folder))


def test_what_changed_is_named(folder, tmp_path):
    own = write_start(tmp_path)
    run = open_rl_run(tmp_path / "run", request(own))
    with pytest.raises(ConfigError, match=r"rl\.rollout\.temperature = 0\.7, not 0\.8"):
        open_rl_run(run.folder, request_of(own, rollout={"temperature": 0.8}, heldout=None, **REQUEST))
    (own / "reward.py").write_text((own / "reward.py").read_text() + "\n")
    with pytest.raises(ConfigError, match=r"reward\.py is not what the run"):
        open_rl_run(run.folder, request(own))
