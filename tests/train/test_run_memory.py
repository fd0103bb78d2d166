"""Memory of a run: what is measured falls with recomputation, and stands beside the figure on paper."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import RECIPE, write_text_folder

from hyla.train import memory
from hyla.train.config import TrainConfig
from hyla.train.memory import PeakWatch, memory_on_paper
from hyla.train.memory_use import memory_use
from hyla.train.model_source import ModelSource
from hyla.train.run import RunRequest, open_run
from hyla.train.run_data import DataSource

CPU = torch.device("cpu")

if memory_use(CPU) is None:
    pytest.skip("the system does not say what a process holds", allow_module_level=True)

# In a process of its own: what this one freed before would be taken again without a trace.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from tiny_run import RECIPE, tiny_store
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.train.config import TrainConfig
from hyla.train.loop import Trainer
from hyla.train.sources import packer_of
from hyla.train.memory import PeakWatch

torch.set_num_threads(1)
kinds = tuple(sys.argv[2].split(",")) if sys.argv[2] else ()
recipe = RECIPE.model_copy(update={"pattern": "K" * 16, "hidden_dim": 64, "dense_dim": 128})
config = TrainConfig(steps=2, batch_tokens=2000, max_document_tokens=300, loss_rows=100, recompute={"kinds": kinds})
model = initialize(Model(recipe.model_config_of(300, 0)), 0)
trainer = Trainer(model, packer_of(tiny_store(80), config), config, Path(sys.argv[1]))
watch = PeakWatch(model.device)
trainer.run()
print(json.dumps([watch.grown(), [line.loss for line in trainer.metrics.read()]]))
"""


def grown(folder: Path, kinds: str) -> tuple[int, list[float]]:
    folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(folder), kinds]
    paths = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    size, losses = json.loads(done.stdout.splitlines()[-1])
    return size, losses


def test_recomputation_takes_less_memory_and_changes_no_bit(tmp_path):
    plain, losses = grown(tmp_path / "plain", "")
    again, same = grown(tmp_path / "again", "all")
    assert losses == same
    assert 0 < again < 0.8 * plain  # 0.57 to 0.61 measured


WATCHED = """
import torch
from hyla.train.memory import PeakWatch

watch, size = PeakWatch(torch.device("cpu")), 1 << 28
held = torch.ones(size // 4)
assert watch.grown() >= 0.9 * size, watch.grown()
del held
assert watch.grown() >= 0.9 * size, watch.grown()
"""


def test_a_watch_sees_what_is_held_for_a_while_only():
    """In a process of its own: one that keeps freed memory grows by less."""
    subprocess.run([sys.executable, "-c", WATCHED], check=True)


def test_where_nobody_says_it_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert PeakWatch(CPU).grown() is None


def test_a_run_writes_down_what_its_steps_took(tmp_path):
    texts = write_text_folder(tmp_path / "texts")
    train = TrainConfig(steps=2, batch_tokens=96, micro_batch_tokens=40, max_document_tokens=48)
    request = RunRequest(model=ModelSource(hybrid=RECIPE), data=DataSource(texts=str(texts)), train=train)
    run = open_run(tmp_path / "run", request, lambda line: None)
    found = run.trained(lambda metrics: None, lambda step: None).memory
    record = json.loads((run.folder / "memory.json").read_text())
    assert found.rows == 40 and record["measured_bytes"] == found.measured_bytes
    assert record["paper"]["activation_bytes"] == memory_on_paper(run.model_config, train).activation_bytes > 0
    assert "on paper" in str(found) and "KiB a token" in str(found)
    assert run.trained(lambda metrics: None, lambda step: None).memory is None  # no step was left


def test_on_paper_recomputation_and_smaller_passes_take_less():
    config = RECIPE.model_config_of(300, 0)
    train = TrainConfig(steps=2, batch_tokens=4096)
    plain = memory_on_paper(config, train)
    again = memory_on_paper(config, TrainConfig(steps=2, batch_tokens=4096, recompute={"kinds": ("all",)}))
    small = memory_on_paper(config, TrainConfig(steps=2, batch_tokens=4096, micro_batch_tokens=1024))
    assert again.activation_bytes < plain.activation_bytes
    assert small.activation_bytes == plain.activation_bytes / 4 and small.weight_bytes == plain.weight_bytes
