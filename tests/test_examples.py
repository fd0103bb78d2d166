"""Every example runs by itself and says what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
SAID = {
    "generate": ["greedy:", "sampled:", "prompt tokens came from the prefix cache"],
    "own_model": ["step  0: loss", "chooses the same tokens", "bytes in each layer"],
    "serve_and_call": ["models:  ['tiny']", "whole:", "stream:", "stopped"],
    "grpo": ["step 2 of 2: reward", "ratio 1", "held-out reward 0.0", "in 2 steps"],
    "which_module": ["chats.jsonl:", "heldout.jsonl:", "questions about 16 modules"],
    "cost_of_a_recipe": ["Kimi-Linear-48B-A3B: 49.12 B parameters", "24 layers of my own", "1,048,576"],
}


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name, tmp_path):
    source = str(FOLDER.parent / "src")
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for text in SAID[name]:
        assert text in done.stdout
    if name == "own_model":
        losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
        assert losses[-1] < 0.6 * losses[0]


def test_every_example_is_listed_and_short():
    files = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.py")}
    assert set(files) == {f"{name}.py" for name in SAID} | {"tiny_folder.py"}
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, text in files.items():
        assert f"({name})" in listed and len(text.splitlines()) < 80, name
