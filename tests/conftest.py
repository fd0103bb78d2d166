"""Set-up of the whole suite."""

import logging
import os
from contextlib import suppress

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
    parser.addoption("--backend", help="Compute all of it with one backend (a name of ops.backends.CHOICES).")


def pytest_configure(config):
    # An example may take long on a busy machine; none is a measurement.
    with suppress(ImportError):  # a machine with a card may have PyTorch and pytest alone
        from hypothesis import settings

        settings.register_profile("hyla", parent=settings.default, deadline=None)
        settings.load_profile("hyla")
    keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    backends.use(config.getoption("--backend") or "auto")


def pytest_report_header(config):
    chosen = config.getoption("--backend") or f"of the CPU: {', '.join(CPU_BACKENDS)}"
    return f"backends {chosen}; {torch.get_num_threads()} threads"


def pytest_generate_tests(metafunc):
    if "each_backend" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backend")
        metafunc.parametrize("each_backend", (chosen,) if chosen else CPU_BACKENDS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def each_backend(request):
    """The module's tests, once for each way to compute on the CPU."""
    backends.use(request.param)
    yield request.param
    backends.use(request.config.getoption("--backend") or "auto")


@pytest.fixture
def torch_operators(each_backend):
    """This test is about PyTorch's operators, whatever the module uses."""
    if each_backend not in ("native", "torch"):
        pytest.skip(f"everything is computed with {each_backend}")
    backends.use("torch")
    yield
    backends.use(each_backend)


@pytest.fixture(autouse=True)
def logs_as_before():
    """A verb that serves sends the logs to the standard error of its test, which is closed afterwards."""
    loggers = [logging.getLogger(name) for name in ("hyla", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
