"""Rollouts by an engine in a process of its own: the same files, whatever dies; never an answer of other weights."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from test_killed_rounds import outcome, stopped_once_written
from tiny_rl import finished, hybrid, lines_of, request_of, write_start

import hyla.rl.run
from hyla.engine import Engine, EngineThread, Overloaded, SamplingParams, TokenEvent
from hyla.errors import HylaError
from hyla.rl.engine_process import MOST_DEATHS, RolloutProcess, check_versions
from hyla.rl.handover import ProcessHandOver
from hyla.rl.samples import RoundFile


def request(folder, *, own_process=True, steps=2, **more):
    heldout = {"tasks": str(folder / "heldout.jsonl"), "every": 2}
    rollout = {"own_process": own_process, "max_tokens": 12}
    return request_of(folder, rollout=rollout, heldout=heldout, checkpoint_every=1, steps=steps, **more)


def whole(out):
    """All that a run leaves but times, and how many drafts there was room for."""
    (lines, *rest), files = outcome(out), {}
    for line in lines["rounds"]:
        del line["drafted_tokens"], line["accepted_tokens"]
    for file in [*(out / "model").iterdir(), *(out / "adapter").glob("*")]:
        files[file.name] = file.read_bytes()
    return lines, rest, files


def killed(process):
    """Kill an engine's process, and wait until it is missed."""
    before, deadline = process.num_restarts, time.monotonic() + 60
    os.kill(process.status()["worker"]["pid"], signal.SIGKILL)
    while process.is_alive and process.num_restarts == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not process.is_alive or process.num_restarts > before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("process"))


def test_an_adapters_run_leaves_the_files_of_one_in_the_same_process(folder, tmp_path):
    lora = {"rank": 2, "use_dora": True}
    run = finished(tmp_path / "there", request(folder, lora=lora))
    rounds = lines_of(run.folder, "rounds")
    assert all(line["handover_seconds"] > 0.0 and line["cached_tokens"] > 0 for line in rounds)
    assert all(line["exact_ratios"] == 1.0 for line in lines_of(run.folder, "updates"))
    expected = finished(tmp_path / "here", request(folder, own_process=False, lora=lora))
    assert whole(run.folder) == whole(expected.folder)


def test_an_engine_that_is_killed_in_a_round_is_made_again_and_no_bit_differs(folder, tmp_path, monkeypatch):
    made, lines = [], []

    class Watched(RolloutProcess):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

        def step(self):
            """Until an answer is kept, no two are taken at once, however many are there."""
            return super().step() if lines else self._taken(self._told.get(timeout=300))

    def add(self, samples, true=RoundFile.add):
        true(self, samples)
        lines.append(self.path.name)
        if len(lines) == 1:
            assert made[0]._open, "some answers are not there yet"
            killed(made[0].process)
            while not made[0]._told.empty():  # what had come is lost as well: all that is open is asked once more
                made[0]._told.get()

    with monkeypatch.context() as patched:
        patched.setattr(hyla.rl.run, "RolloutProcess", Watched)
        patched.setattr(RoundFile, "add", add)
        run = finished(tmp_path / "there", request(folder, dtype="bf16"))
    assert made[0].process.num_restarts == 1 and lines[0] == lines[1] == "round-000000.jsonl"
    expected = finished(tmp_path / "here", request(folder, own_process=False, dtype="bf16"))
    assert whole(run.folder) == whole(expected.folder)


def descendants(pid):
    """Processes that a process has started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(child)]
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def trainer_killed(folder, out, steps, number):
    """Kill a whole run with its process in the middle of a round; no process of it is left."""
    name = f"round-{number:06d}.jsonl"
    with stopped_once_written("test_rollout_process", folder, out, name, steps=steps) as trainer:
        left = descendants(trainer.pid)
        trainer.kill()
    assert len(left) >= 2, "the engine's process, and the reward's"
    deadline = time.monotonic() + 300
    while any(map(is_running, left)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, left))


def test_a_trainer_that_is_killed_leaves_no_process(folder, tmp_path):
    trainer_killed(folder, tmp_path / "run", steps=2, number=0)


@pytest.mark.slow  # make rl-drills
def test_a_trainer_that_is_killed_goes_on_bit_for_bit(folder, tmp_path):
    for number in (0, 2, 4):
        trainer_killed(folder, tmp_path / "run", steps=5, number=number)
    run = finished(tmp_path / "run", request(folder, steps=5))
    assert whole(run.folder) == whole(finished(tmp_path / "here", request(folder, own_process=False, steps=5)).folder)


# Without a second process: an engine on a thread stands for it.


class Standing:
    """What `RolloutProcess` uses of an `EngineProcess`; `die` loses everything, and there is another engine."""

    num_restarts, is_alive = 0, True

    def __init__(self, seed):
        self._seed, self._open = seed, {}
        self._begin()
        self.facts = self.thread.facts

    def _begin(self):
        self.thread = EngineThread(Engine(hybrid("kda", 61, self._seed), memory=8 << 20))
        self.thread.start()

    def submit(self, request, on_event):
        self._open[request.request_id] = on_event
        return self.thread.submit(request, on_event)

    def cancel(self, name):
        self.thread.cancel(name)

    def resume(self):
        return self.thread.resume()

    def renew_weights(self, handed):
        return self.thread.renew_weights(handed)

    def status(self):
        return {"worker": {"last_end": "was killed by signal 9"}}

    def die(self):
        self.thread.stop()
        self.num_restarts += 1
        for name, on_event in self._open.items():
            on_event(TokenEvent(name, 0, finish_reason="error", error="died", retry_after_seconds=1))
        self._begin()

    def stop(self):
        self.thread.stop()


@pytest.fixture
def process():
    process = Standing(seed=2)
    yield process
    process.stop()


PROMPTS = [list(range(40)), [5, 6, 7]]
PARAMS = SamplingParams(max_tokens=9, temperature=0.9, seed=1, logprobs=0)


def given(process):
    """A trainer's model, and the engine that samples for it."""
    source, engine = hybrid("kda", 61, seed=1), RolloutProcess(process, None)
    return source, engine, ProcessHandOver(source, engine, [name for name, _ in source.named_parameters()])


def told(engine):
    return [(one.token_ids, one.logprobs) for one in engine.generate(PROMPTS, PARAMS)]


def step(source, by):
    with torch.no_grad():
        source.get_parameter("sublayers.1.module.up.weight").mul_(by)


def test_another_process_gets_the_whole_model_under_the_version_of_the_round(process):
    source, engine, hand_over = given(process)
    hand_over()
    step(source, 1.5)
    process.die()  # between two rounds
    hand_over()
    assert engine.weights_version == process.thread.engine.weights_version == 3
    expected = told(Engine(source, memory=8 << 20, pack=False))
    assert told(engine) == expected
    process.die()
    found = engine.generate(PROMPTS, PARAMS)
    assert [(one.token_ids, one.logprobs) for one in found] == expected
    check_versions(found, engine)


def test_a_process_that_dies_again_and_again_ends_the_run(process, monkeypatch):
    _, engine, hand_over = given(process)
    hand_over()
    monkeypatch.setattr(process, "submit", lambda request, on_event: process.die() or engine.resolve(request).request)
    process._open["local-0"] = engine._told.put
    with pytest.raises(HylaError, match=f"died {MOST_DEATHS + 1} times without an answer between; the last one was"):
        engine.generate(PROMPTS[0], PARAMS)


def test_a_process_that_was_only_silent_keeps_what_it_has(process, monkeypatch):
    source, engine, hand_over = given(process)
    hand_over()
    true, calls = process.submit, []

    def submit(request, on_event):
        calls.append(request.request_id)
        if len(calls) == 2:
            monkeypatch.setattr("hyla.rl.engine_process.time.sleep", lambda seconds: setattr(process, "is_alive", True))
            process.is_alive = False
            raise Overloaded("it has said nothing for 5 s")
        return true(request, on_event)

    monkeypatch.setattr(process, "submit", submit)
    assert told(engine) == told(Engine(source, memory=8 << 20, pack=False))
    assert calls == ["local-0", "local-1", "local-1"]


def test_numbers_that_arrive_otherwise_are_an_error(process, monkeypatch):
    from hyla.engine.renewal import Renewal

    _, _, hand_over = given(process)
    true = Renewal.__call__

    def one_ulp(self, read):
        true(self, read)
        held = process.thread.engine.model.norm.weight
        held.view(torch.int32)[3] += 1

    monkeypatch.setattr(Renewal, "__call__", one_ulp)
    with pytest.raises(HylaError, match=r"after hand-over 2 the engine's process has weights with the digest \w+ and"):
        hand_over()


def test_an_answer_of_other_weights_is_an_error_that_names_both(process):
    _, engine, hand_over = given(process)
    hand_over()
    stale = engine.generate(PROMPTS[0], PARAMS)
    hand_over()
    with pytest.raises(HylaError, match="drawn with version 2 of the weights, and version 3 was handed over"):
        check_versions(stale, engine)


def test_a_round_asks_which_weights_drew_its_answers(folder, tmp_path, monkeypatch):
    def draw_with(self, version):
        self.weights_version = version - 1

    monkeypatch.setattr("hyla.engine.generation.Generation.draw_with", draw_with)
    with pytest.raises(HylaError, match="version 1 of the weights, and version 2 was handed over for this round"):
        finished(tmp_path / "run", request(folder, own_process=False))
