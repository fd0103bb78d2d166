"""What answers before PyTorch is loaded: configs, formats, families, costs, parsers, engine requests, reports."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hyla"
FOLDERS = (
    "answers",
    "cost",
    "engine/requests",
    "layers/tables",
    "models/config",
    "models/families",
    "models/formats",
    "models/kinds",
    "study/execution",
    "study/report",
    "study/report/plots",
    "study/report/sections",
    "study/statistics",
)


def modules_of(folder):
    """The package of a folder and all its modules."""
    package = "hyla." + folder.replace("/", ".")
    names = (file.stem for file in sorted((SOURCE / folder).glob("*.py")))
    return [package if name == "__init__" else f"{package}.{name}" for name in names]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_fresh_process_imports_every_module_of_a_folder_and_no_torch(folder):
    # One after another in one process: the first that loads PyTorch is named.
    lines = (f"import {module}; assert 'torch' not in sys.modules, '{module}'" for module in modules_of(folder))
    done = subprocess.run([sys.executable, "-c", "\n".join(["import sys", *lines])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
    assert len(modules_of(folder)) > 3


def test_a_published_model_is_costed_and_its_tensors_named_without_torch():
    code = """
import sys
from hyla.cost import count_parameters, find_target
from hyla.models.formats import family_of
config = find_target("kimi-linear-48b-a3b").config
assert count_parameters(config).total > 4e10
assert len(family_of("kimi_linear").names["kda"]) > 5
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
