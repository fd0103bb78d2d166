"""Set-up of the whole suite."""

import torch

from hyla.ops.host_memory import keep_freed_memory


def pytest_configure(config):
    keep_freed_memory()
    torch.set_num_threads(min(2, torch.get_num_threads()))
