"""Threads that take turns: every turn of a loop once, whoever else computes, forks or waits."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from native_builds import every_build

from hyla.ops import native
from hyla.ops.native import build, kernels

pytestmark = pytest.mark.skipif(not every_build(), reason="no C compiler")

SOURCES = Path(build.__file__).parent
LOOPS = Path(__file__).parent / "team_loops.c"


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("flags", [(), ("-DWITHOUT_FUTEX",)], ids=["futex", "condition variables"])
def test_random_loops_of_several_callers_and_their_forks(flags, tmp_path):
    program = tmp_path / "loops"
    shared = [flag for flag in build.FLAGS if flag not in ("-shared", "-fPIC")]
    code = [str(LOOPS), str(SOURCES / "team.c")]
    subprocess.run([build.find_compiler(), *shared, *flags, f"-I{SOURCES}", *code, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def x():
    return torch.randn(64, 2000, generator=torch.Generator().manual_seed(0))


def is_right(x: torch.Tensor) -> bool:
    """A call of many turns gives what calls of one row give. Without a loop of PyTorch's, which has threads of its own."""
    norm = {"shift": 0.0, "eps": 1e-6, "divisor": 2000.0}
    whole = kernels.norm(x, None, **norm).numpy()
    return all((whole[i] == kernels.norm(x[i : i + 1], None, **norm).numpy()).all() for i in range(64))


def test_a_loop_has_as_many_threads_as_pytorch_s(three_threads):
    size = native.library().team_size
    assert size() == 3
    torch.set_num_threads(2)
    assert size() == 2


def test_threads_of_python_compute_side_by_side(three_threads, x):
    right = []

    def compute():
        right.extend(is_right(x) for _ in range(20))

    callers = [threading.Thread(target=compute) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert right == [True] * 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_has_threads_of_its_own(three_threads, x):
    assert is_right(x)
    child = multiprocessing.get_context("fork").Process(target=_compute_and_exit, args=(x,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert is_right(x)


def _compute_and_exit(x):
    right, tasks = is_right(x), Path("/proc/self/task")
    os._exit(0 if right and (not tasks.exists() or len(list(tasks.iterdir())) == 3) else 1)


def test_a_process_ends_while_its_threads_wait(three_threads):
    code = """
import torch
from hyla.ops.native import kernels
torch.set_num_threads(3)
kernels.unary("silu", torch.ones(10**6))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
