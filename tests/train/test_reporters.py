"""Viewers of a run get what its files say, each step once, however often it was stopped."""

import json
import shutil
from dataclasses import dataclass, field

import pytest
import torch
from test_precision_and_passes import poisoned, with_options
from test_progress import WATCHED, run_of
from tiny_run import CONFIG, tiny_store, tiny_trainer, write_text_folder

from hyla.errors import ConfigError
from hyla.train import reporters
from hyla.train.metrics import HeldoutMetrics, Sample, StepMetrics, SublayerStatistics
from hyla.train.reporters import Named, Reports, check_reporters, named, reports_of
from hyla.train.run_state import finished_states


@dataclass
class Notebook:
    """A viewer that keeps what it is told, as trackio is used: told anew whenever a run goes on."""

    told: dict[int, dict[str, float]] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    flushed: int = 0
    is_closed: bool = False

    def start(self, step, history):
        self.starts.append(step)
        self.told.clear()
        for line in history:
            assert line.step <= step
            self.log(line)

    def log(self, line: Named):
        already = self.told.setdefault(line.step, {})
        assert not already.keys() & line.figures.keys(), "a figure was told twice"
        already.update(line.figures)

    def flush(self):
        self.flushed += 1

    def close(self):
        self.is_closed = True


def test_a_line_has_one_name_for_each_figure():
    step = StepMetrics(3, 2.0, 1e-3, 0.5, 300, 50.0, 6.0, memory_bytes=7, spike="too long")
    found = named(step)
    assert found.step == 3 and found.figures["train/loss"] == 2.0 and found.figures["train/memory_bytes"] == 7.0
    assert "train/mtp_loss" not in found.figures and found.texts == {"train/spike": "too long"}
    found = named(HeldoutMetrics(4, 1.5, 64, (Sample("a", "b"),)))
    assert found.figures == {"heldout/loss": 1.5, "heldout/tokens": 64.0} and found.texts == {
        "heldout/sample_0": "a → b"
    }
    found = named(SublayerStatistics(5, 2, "kda", {"beta_mean": 0.5, "decay_quantiles": [0.1, 0.9]}))
    assert found.figures == {
        "layer_02_kda/beta_mean": 0.5,
        "layer_02_kda/decay_quantiles_0": 0.1,
        "layer_02_kda/decay_quantiles_1": 0.9,
    }


def test_a_viewer_of_a_stopped_run_has_every_step_once(tmp_path):
    config = with_options(**WATCHED)
    for stop in (6, config.steps):
        trainer, notebook = tiny_trainer(tmp_path, config), Notebook()
        trainer.heldout, trainer.records.reports = tiny_store(3), Reports([notebook])
        trainer.resume()
        trainer.run(is_stopped=lambda: trainer.finished_steps >= stop)  # noqa: B023
        assert notebook.flushed >= 1
        if stop < config.steps:
            kill_after(tmp_path, stop)
    assert sorted(notebook.told) == list(range(1, config.steps + 1)) and notebook.starts == [4]
    losses = {line.step: line.loss for line in trainer.metrics.read()}
    assert {step: figures["train/loss"] for step, figures in notebook.told.items()} == losses
    assert "heldout/loss" in notebook.told[2] and "layer_00_kda/beta_mean" in notebook.told[3]


def test_a_viewer_goes_back_with_the_run(tmp_path):
    trainer, notebook = poisoned(tmp_path, with_options(spikes={"action": "rollback"}), 5), Notebook()
    trainer.records.reports = Reports([notebook])
    trainer.run()
    assert notebook.starts == [0, 4] and sorted(notebook.told) == list(range(1, CONFIG.steps + 1))
    assert {step: found["train/loss"] for step, found in notebook.told.items()} == {
        line.step: line.loss for line in trainer.metrics.read()
    }


def test_a_missing_package_is_named_before_anything_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(reporters, "find_spec", lambda name: None)
    texts = write_text_folder(tmp_path / "texts")
    with pytest.raises(ConfigError, match=r"names tensorboard, .* pip install 'hyla\[tensorboard\]'"):
        run_of(tmp_path / "run", texts, report=["tensorboard"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="trackio"):
        check_reporters(["trackio"])


def test_an_unknown_viewer_is_refused():
    with pytest.raises(ConfigError, match="report"):
        with_options(report=["wandb"])


def test_viewers_are_closed_when_a_run_fails(tmp_path, monkeypatch):
    notebook, texts = Notebook(), write_text_folder(tmp_path / "texts")
    monkeypatch.setattr("hyla.train.run.reports_of", lambda names, folder, config: Reports([notebook]))
    run = run_of(tmp_path / "run", texts)

    def fail(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.trained(fail, lambda step: None)
    assert notebook.is_closed


def kill_after(folder, step: int) -> None:
    """Leave what a kill leaves between two checkpoints: lines and figures up to `step`, and the state before it."""
    newest = finished_states(folder / "checkpoints")[-1]
    assert newest.name == f"step-{step:08d}"
    shutil.rmtree(newest)


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_every_step_once_after_a_stop_and_a_rollback(tmp_path):
    pytest.importorskip("tensorboard")
    config = with_options(**WATCHED, spikes={"action": "rollback"})
    for stop in (6, config.steps):
        trainer = poisoned(tmp_path, config, 4)
        trainer.heldout = tiny_store(3)
        trainer.resume()
        trainer.records.reports = reports_of(["tensorboard"], tmp_path, {})
        trainer.run(is_stopped=lambda: trainer.finished_steps >= stop)  # noqa: B023
        trainer.records.reports.close()
        if stop < config.steps:
            kill_after(tmp_path, stop)
    found = scalars(tmp_path / "tensorboard")
    expected = [(line.step, line.loss) for line in trainer.metrics.read()]
    assert [step for step, _ in found["train/loss"]] == list(range(1, config.steps + 1))
    torch.testing.assert_close([value for _, value in found["train/loss"]], [value for _, value in expected])
    assert [step for step, _ in found["heldout/loss"]] == [2, 4, 6, 8, 9]
    assert [step for step, _ in found["layer_00_kda/state_norm_max"]] == [3, 6, 9]


@pytest.mark.filterwarnings("ignore")
def test_trackio_holds_every_step_once_after_a_stop_and_a_rollback(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "viewer"))  # read when trackio is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    config = with_options(spikes={"action": "rollback"})
    for stop in (6, config.steps):
        trainer = poisoned(tmp_path, config, 4)
        trainer.resume()
        trainer.records.reports = reports_of(["trackio"], tmp_path, {"seed": 3})
        trainer.run(is_stopped=lambda: trainer.finished_steps >= stop)  # noqa: B023
        trainer.records.reports.close()
        if stop < config.steps:
            kill_after(tmp_path, stop)
    name = json.loads((tmp_path / "trackio.json").read_text())["run"]
    assert name.startswith(f"{tmp_path.name}-")
    logs = SQLiteStorage.get_logs("hyla", name)
    assert [line["step"] for line in logs] == list(range(1, config.steps + 1))
    assert [line["train/loss"] for line in logs] == [line.loss for line in trainer.metrics.read()]
    assert len(SQLiteStorage.get_runs("hyla")) == 1
