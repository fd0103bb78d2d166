"""The engine's edge: what a server, a validator of settings or a remote handle needs, without PyTorch."""

import subprocess
import sys
from pathlib import Path

import pytest

import hyla

SOURCE = Path(hyla.__file__).parent

EDGE = sorted(
    ".".join(("hyla", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for folder in ("engine/requests", "answers")
    for file in (SOURCE / folder).glob("*.py")
) + ["hyla.engine", "hyla.engine.hosting.handle", "hyla.engine.hosting.process", "hyla.server", "hyla.server.app"]

PROGRAM = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    assert "torch" not in sys.modules, f"{module} loads torch"
print("none of them loads torch")
"""


def run(*modules):
    return subprocess.run([sys.executable, "-c", PROGRAM, *modules], capture_output=True, text=True, timeout=120)


def test_nothing_at_the_edge_loads_torch():
    assert len(EDGE) > 25
    done = run(*EDGE)
    if done.returncode:  # one by one, since the first module that loads it hides the others
        pytest.fail("\n".join(one.stderr for one in map(run, EDGE) if one.returncode))
    assert done.stdout == "none of them loads torch\n"


def test_a_module_that_loads_torch_is_found():
    assert "hyla.caches loads torch" in run("hyla.caches").stderr
