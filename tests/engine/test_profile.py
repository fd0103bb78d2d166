"""Ranges and traces: what a profiler shows of a step, and nothing at all without one."""

import json

import pytest
from tiny_text import tiny_model

from hyla.engine import Engine, SamplingParams
from hyla.ranges import Trace, named_range, show_ranges

PARAMS = SamplingParams(max_tokens=6, seed=3, ignore_eos=True)
OPTIONS = {"memory": 4 << 20, "max_num_sequences": 2}


def names_in(file):
    return {event["name"] for event in json.loads(file.read_text())["traceEvents"] if "name" in event}


def test_a_range_is_nothing_until_somebody_looks():
    assert named_range("one") is named_range("another", 2)
    show_ranges(True)
    try:
        assert named_range("one") is not named_range("one")
    finally:
        show_ranges(False)


def test_an_engine_writes_the_trace_of_its_first_steps_and_answers_as_without(tmp_path):
    model, file = tiny_model("kimi_linear", seed=5), tmp_path / "traces" / "steps.json"
    (plain,) = Engine(model, **OPTIONS).generate([[5, 6, 7]], PARAMS)
    engine = Engine(model, profile=file, profile_steps=3, **OPTIONS)
    assert engine.options.profile == str(file)
    assert engine.generate([[5, 6, 7]], PARAMS) == [plain]
    assert {"step", "schedule", "forward 3 tokens", "forward 1 tokens", "sample", "commit"} <= names_in(file)
    assert named_range("after it") is named_range("nothing is recorded")


def test_closing_writes_what_there_is(tmp_path):
    file = tmp_path / "steps.json"
    engine = Engine(tiny_model("kimi_linear", seed=5), profile=file, **OPTIONS)
    engine.generate([[5, 6, 7]], PARAMS)
    assert not file.exists()
    engine.close()
    assert "forward 3 tokens" in names_in(file)
    engine.close()


def test_a_trace_that_cannot_be_written_is_said_and_ends_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    engine = Engine(tiny_model("kimi_linear", seed=5), profile=tmp_path / "file" / "in_it", profile_steps=1, **OPTIONS)
    (done,) = engine.generate([[5, 6, 7]], PARAMS)
    assert done.finish_reason == "length" and "could not be written" in caplog.text


def test_a_trace_is_finished_where_it_was_started(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    trace = Trace(tmp_path / "trace.json")
    trace.finish()
    with ThreadPoolExecutor(1) as other:
        other.submit(trace.start).result()
        with pytest.raises(RuntimeError, match="the thread that started it"):
            trace.finish()
        other.submit(trace.finish).result()
    assert trace.file.exists() and not trace.is_running
