"""Runs of a study: what they are functions of, and what a kill leaves."""

import json
import math
from dataclasses import replace

import pytest
import torch
from small_study import STUDY, TURNS, write_study
from typer.testing import CliRunner

from hyla.cli.app import app
from hyla.cli.study_run import lines
from hyla.errors import ConfigError
from hyla.evals.synthetic.learning import heldout_passes
from hyla.study.execution.progress import Stopped, ask_to_stop
from hyla.study.files import read_study
from hyla.study.language import execute, trainer_of
from hyla.study.ledger import Ledger
from hyla.study.price import Price
from hyla.study.stages import progress

TIMES = ("seconds", "evaluation_seconds", "machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    return progress(read_study(folder / "small.toml"), Ledger(folder / "nothing")).final


def figures(result):
    return {name: value for name, value in result.items() if name not in TIMES}


def test_a_run_is_a_function_of_its_key(runs, tmp_path):
    first, second = (execute(runs[1], tmp_path / str(number)) for number in range(2))
    assert figures(first) == figures(second)
    assert runs[1].text is not None and "text" not in first["run"]  # it is a folder of this machine
    assert first["tasks"].keys() == {"recall"} and 0 <= first["tasks"]["recall"] <= 1
    assert first["test_bits"] > 0 and first["validation_bits"] != first["test_bits"]
    assert first["bits_by_position"].keys() == {"0"}


def test_a_run_that_was_stopped_goes_on_to_the_same_result(runs, tmp_path, monkeypatch):
    whole = execute(runs[1], tmp_path / "whole")
    asked = []

    def stop_at_three(self):
        asked.append(1)
        return len(asked) >= 4

    monkeypatch.setattr("hyla.study.execution.progress.Progress.is_stopped", stop_at_three)
    with pytest.raises(Stopped):
        execute(runs[1], tmp_path / "cut")
    monkeypatch.undo()
    assert figures(execute(runs[1], tmp_path / "cut")) == figures(whole)


def test_a_run_that_is_asked_to_stop_stops(runs, tmp_path):
    (tmp_path / "work").mkdir()
    ask_to_stop(tmp_path / "work")
    with pytest.raises(Stopped):
        execute(runs[1], tmp_path / "work")


def test_arms_with_equal_seeds_read_the_same(runs, tmp_path):
    by_arm = {(run.arm, run.seed): trainer_of(run, tmp_path / run.name).source for run in runs}
    for step in (0, 3):
        rows = {key: source.step(step) for key, source in by_arm.items()}
        assert torch.equal(rows["softmax only", 0].tokens_T, rows["kda 1:1", 0].tokens_T)
        assert not torch.equal(rows["softmax only", 0].tokens_T, rows["softmax only", 1].tokens_T)


def test_a_rate_that_diverges_is_a_result(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("hyla.train.spikes.SpikeWatch.fault", lambda self, loss, norm: "the loss is not finite")
    found = execute(runs[1], tmp_path / "work")
    assert found["test_bits"] is None and found["validation_bits"] is None and found["tasks"] == {}


def test_weights_that_the_last_step_spoilt_are_a_result_as_well(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("hyla.study.language.scored", lambda *_: {"validation_bits": math.nan, "test_bits": 2.0})
    found = execute(runs[1], tmp_path / "work")
    assert found["test_bits"] is None and found["validation_bits"] is None and found["tasks"] == {}


def test_another_text_is_an_error(runs, tmp_path):
    with pytest.raises(ConfigError, match="the text has changed"):
        execute(runs[1].model_copy(update={"data": "another"}), tmp_path / "work")


def test_conversations_are_scored_by_kind_and_age_of_question(tmp_path):
    write_study(tmp_path, (STUDY + TURNS).replace("8.28e8", "1.23e9"))
    run = progress(read_study(tmp_path / "small.toml"), Ledger(tmp_path / "nothing")).final[1]
    found = execute(run, tmp_path / "work")
    assert found["tasks"].keys() == {"recall", "turns-2", "turns-4"}
    parts = found["task_parts"]
    kinds = {"direct", "overwritten", "multi-hop", "tool"}
    assert parts.keys() == {"turns-2", "turns-4"} and kinds <= parts["turns-4"].keys()
    assert "said 2 to 3 turns ago" in parts["turns-4"] and "said 2 to 3 turns ago" not in parts["turns-2"]
    task, questions = run.test_tasks["turns-4"], {}
    for rows in heldout_passes(task, run.test_examples):
        for first in range(0, len(rows.tokens_T), task.length):
            for asked in task.turn_of_question(rows.tokens_T[first : first + task.length].tolist()).values():
                questions[asked.kind] = questions.get(asked.kind, 0) + 1
    mean = sum(parts["turns-4"][kind] * count for kind, count in questions.items()) / sum(questions.values())
    assert mean == pytest.approx(found["tasks"]["turns-4"])


def studied(folder, *options):
    return CliRunner().invoke(app, ["study", str(folder / "small.toml"), *options])


def test_a_study_runs_once_and_reports(tmp_path):
    file = write_study(tmp_path)
    done = studied(tmp_path)
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "small" / "runs").glob("*.json"))
    assert len(names) >= 2 * (3 + 2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "small" / "runs").iterdir()}
    report = (tmp_path / "small" / "report.md").read_text()
    assert "Is a hybrid as good as full attention?" in report and "inside the noise" in report
    again = studied(tmp_path)
    assert again.exit_code == 0 and "begins" not in again.output
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "small" / "runs").iterdir()}
    assert (tmp_path / "small" / "report.md").read_text() == report
    assert not list((tmp_path / "small" / "unfinished").glob("*"))
    file.write_text(STUDY.replace("seeds = [0, 1]", "seeds = [0]"))
    fewer = studied(tmp_path)
    assert "belong to no run of this study" in fewer.output


def test_results_of_another_version_are_refused_by_name(tmp_path):
    write_study(tmp_path)
    run = progress(read_study(tmp_path / "small.toml"), Ledger(tmp_path / "nothing")).tuning[0]
    runs = tmp_path / "small" / "runs"
    runs.mkdir(parents=True)
    (runs / f"{run.name}.json").write_text(json.dumps({"run": {"kind": "language", "version": 7}}))
    done = studied(tmp_path)
    assert done.exit_code != 0 and "version 7" in str(done.exception or done.output)


def test_a_price_of_any_size_is_readable():
    known = dict(runs=8, finished=0, unknown=0, flops=1.2e21, tokens=4e11, flops_to_do=1.2e21, basis="2 steps")
    known |= dict(longest_flops=1.5e20, longest_minutes=8.6e7, device="h200")
    large = Price(**known, hours_here=11469655.5, hours_device=746.0)
    found = "\n".join(lines(large))
    assert "about 11,000,000 hours of one core here (2 steps)" in found and "about 86,000,000 minutes here" in found
    assert found.endswith("on one h200 at its roofline: 750 hours in all")
    small = lines(replace(large, hours_here=None, longest_minutes=None, hours_device=0.0421))
    assert "here" not in "".join(small) and small[-1].endswith("0.042 hours in all")


def test_a_dry_run_says_what_there_is_and_writes_nothing(tmp_path):
    write_study(tmp_path)
    done = studied(tmp_path, "--dry-run")
    assert done.exit_code == 0 and "10 runs, 0 finished" in done.output
    assert not (tmp_path / "small").exists()
