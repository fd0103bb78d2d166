"""Set-up of the whole suite."""

import os

# Tiny tensors: a second thread costs more than it gives, here and in the processes that tests start. What depends on
# the thread count is probed by `python -m bench invariance` with one and two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from hyla.ops import backends, native
from hyla.ops.host_memory import keep_freed_memory


def _cpu_backends() -> tuple[str, ...]:
    """What can be tested here: without a C compiler there is nothing but PyTorch's operators."""
    return ("native", "torch") if native.why_missing() is None else ("torch",)


CPU_BACKENDS = _cpu_backends()


def pytest_addoption(parser):
    parser.addoption("--backend", help="Compute everything with this backend (ops.backends.CHOICES), and no other.")


def pytest_report_header(config):
    return f"CPU backends: {', '.join(CPU_BACKENDS)}"


@pytest.fixture(scope="module", params=CPU_BACKENDS)
def each_backend(request):
    """The module's tests, once for each way to compute on the CPU."""
    backends.use(request.param)
    yield request.param
    backends.use("auto")


@pytest.fixture
def torch_operators(each_backend):
    """This test is about PyTorch's operators, whatever the module uses."""
    backends.use("torch")
    yield
    backends.use(each_backend)


def pytest_configure(config):
    keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
