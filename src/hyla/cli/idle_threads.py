"""How PyTorch's threads wait for each other on a machine that does other things too."""

from __future__ import annotations

import importlib
import os

WAIT_POLICY = "OMP_WAIT_POLICY"


def load_torch() -> None:
    """Load PyTorch so that its threads sleep while they wait, unless the environment says how they wait.

    A training step is thousands of short parallel regions. A thread that spins at the end of each uses up the time that
    its partner needs to get there: beside other work such a step takes ten times as long. No bit depends on it. The
    setting is read when PyTorch is loaded, and is for this process only: a server started from it answers one row at a
    time and waits the usual way.
    """
    is_given = WAIT_POLICY in os.environ
    os.environ.setdefault(WAIT_POLICY, "passive")
    try:
        importlib.import_module("torch")
    finally:
        if not is_given:
            del os.environ[WAIT_POLICY]
