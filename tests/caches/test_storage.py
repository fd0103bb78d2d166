"""Memory of caches: zeros, aligned, and the system's own until they are written."""

import subprocess
import sys

import pytest
import torch

from hyla.caches.storage import ALIGNMENT, zeros

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1,), (0, 4), (2, 0)])
def test_zeros_are_zeros_of_their_own(shape, dtype):
    one, other = zeros(shape, dtype, CPU), zeros(shape, dtype, CPU)
    assert one.shape == shape and one.dtype == dtype and one.is_contiguous()
    assert not one.float().any() and one.data_ptr() % ALIGNMENT == 0
    one.fill_(1)
    assert not other.float().any() and one.float().eq(1).all()


LARGE_CACHE = """
import torch
from hyla.caches.storage import zeros

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

cpu = torch.device("cpu")
first = zeros((1 << 20,), torch.uint8, cpu)  # what the process has freed before is used up by none of both
before = resident()
cache = zeros((1 << 30,), torch.uint8, cpu)
assert resident() - before < 1 << 28, resident() - before
cache[:: 1 << 20] = 1
assert int(cache.sum()) == 1 << 10 and not first.any()
"""


def test_a_large_cache_takes_no_memory_before_it_is_written():
    """In a process of its own: another one may have freed memory that it keeps, and that has to be cleared."""
    subprocess.run([sys.executable, "-c", LARGE_CACHE], check=True)
