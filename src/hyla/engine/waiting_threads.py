"""How PyTorch's threads wait for each other on a machine that does other things too."""

from __future__ import annotations

import importlib
import os

WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SPINS = "5000"
"""Rounds of waiting before a thread sleeps: some microseconds. On two cores (docs/log.md) it keeps nine tenths of the
speed of threads that never sleep, and beside two busy processes it is several times as fast as they are."""


def load_torch() -> None:
    """Load PyTorch so that its threads soon sleep while they wait, unless the environment says how they wait.

    A training step is thousands of short parallel regions. A thread that spins at the end of each uses up the time that
    its partner needs to get there, beside other work; one that sleeps at once has to be woken each time. In an engine
    it would spin where our kernels' own threads compute. No bit depends on it. The setting is read when PyTorch is
    loaded (by GNU's OpenMP), and is for this process only.
    """
    is_given = WAIT_POLICY in os.environ or SPIN_COUNT in os.environ
    if not is_given:
        os.environ[SPIN_COUNT] = SPINS
    try:
        importlib.import_module("torch")
    finally:
        if not is_given:
            del os.environ[SPIN_COUNT]
