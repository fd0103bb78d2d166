"""Set-up of the whole suite."""

import os

# Tiny tensors: a second thread costs more than it gives, here and in the processes that tests start. What depends on
# the thread count is probed by bench/invariance.py with one and two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from hyla.ops.host_memory import keep_freed_memory


def pytest_configure(config):
    keep_freed_memory()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
