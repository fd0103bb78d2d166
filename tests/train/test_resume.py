import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import CONFIG, tiny_trainer

from hyla.errors import CheckpointError, ConfigError
from hyla.train.files import held
from hyla.train.run_state import finished_states

KILLED_RUN = """
import signal, sys, time
signal.alarm(600)
from pathlib import Path
from tiny_run import tiny_trainer
trainer = tiny_trainer(Path(sys.argv[1]))
trainer.resume()
def stop(metrics):
    if metrics.step == 6:
        print("at step 6", flush=True)
        time.sleep(600)
trainer.run(stop)
"""


def losses(folder: Path) -> list[tuple[int, str, str]]:
    """Step, loss and gradient norm of every line, as exact hexadecimal floats."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"].hex(), line["grad_norm"].hex()) for line in map(json.loads, lines)]


def test_a_run_killed_with_signal_9_continues_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    tiny_trainer(whole).run()
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED_RUN, str(killed)]
    given = {"cwd": Path(__file__).parent, "env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **given) as process:
        assert process.stdout.readline() == "at step 6\n"
        process.kill()
    assert len(losses(killed)) == 6 < CONFIG.steps
    trainer = tiny_trainer(killed)
    assert trainer.resume() == 4
    trainer.run()
    assert losses(killed) == losses(whole)
    states = [finished_states(folder / "checkpoints")[-1] for folder in (killed, whole)]
    assert (states[0] / "weights.safetensors").read_bytes() == (states[1] / "weights.safetensors").read_bytes()


def test_another_seed_gives_another_run(tmp_path):
    for seed in (3, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tiny_trainer(folder, CONFIG.model_copy(update={"seed": seed, "steps": 2})).run()
    assert losses(tmp_path / "3") != losses(tmp_path / "4")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls_and_only_the_newest_checkpoints_stay(tmp_path, optimizer):
    config = CONFIG.model_copy(update={"steps": 12, "optimizer": optimizer, "checkpoint_every": 3})
    trainer = tiny_trainer(tmp_path, config)
    trainer.run()
    metrics = trainer.metrics.read()
    assert [line.step for line in metrics] == list(range(1, 13))
    assert metrics[-1].loss < metrics[0].loss - 0.1
    assert metrics[-1].tokens == 12 * 192
    assert [state.name for state in finished_states(tmp_path / "checkpoints")] == ["step-00000009", "step-00000012"]


def test_a_half_written_checkpoint_is_not_used(tmp_path):
    trainer = tiny_trainer(tmp_path, CONFIG.model_copy(update={"steps": 4}))
    trainer.run()
    partial = tmp_path / "checkpoints" / ".step-00000008.partial"
    partial.mkdir()
    (partial / "weights.safetensors").write_bytes(b"half")
    assert tiny_trainer(tmp_path).resume() == 4


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path):
    tiny_trainer(tmp_path, CONFIG.model_copy(update={"steps": 4})).run()
    path = tmp_path / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors has other bytes .*; delete .*checkpoints"):
        tiny_trainer(tmp_path).resume()


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_goes_back_to_the_checkpoint_before_and_says_so(tmp_path, name):
    tiny_trainer(tmp_path, CONFIG.model_copy(update={"steps": 8})).run()
    whole = losses(tmp_path)
    states = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert len(states) == 2
    file = states[-1] / name
    blob = bytearray(file.read_bytes())
    blob[-3 if name != "state.json" else 0] ^= 1
    file.write_bytes(blob)
    trainer, said = tiny_trainer(tmp_path, CONFIG.model_copy(update={"steps": 8})), []
    assert trainer.resume(said.append) < 8
    assert len(said) == 1 and "is damaged" in said[0] and "going on from the one before" in said[0]
    trainer.run()
    assert losses(tmp_path) == whole


def test_two_trainers_never_share_a_folder(tmp_path):
    with held(tmp_path / "run"):
        with pytest.raises(ConfigError, match=r"another process works in .*run; wait for it"), held(tmp_path / "run"):
            pass
        with held(tmp_path / "other"):
            pass
    with held(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(tmp_path):
    trainer = tiny_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.head.weight[0, 0] = float("nan")
    before = trainer.model.embed.weight.clone()
    with pytest.raises(ConfigError, match="lower learning_rate"):
        trainer.run()
    assert torch.equal(trainer.model.embed.weight, before)
    assert not finished_states(tmp_path / "checkpoints")
