"""Every family lives on a device that is not the CPU as it does on the CPU, bit for bit; what crosses is counted."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hyla.models.formats.registry import families

HERE = Path(__file__).parent
FAMILIES = tuple(sorted(family.name for family in families()))
PARTS = (
    "start values", "training", "cached", "drafts off", "drafts lookup", "drafts mtp", "drafts draft", "spill",
    "new weights",
)  # fmt: skip


@cache
def lives() -> dict[str, dict]:
    """By family, from one process for all (the device, once registered, stays)."""
    command = [sys.executable, "life.py", *FAMILIES]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return {found["family"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_family_s_life_has_the_cpu_s_bits(family, part):
    outcome = lives()[family]["equal"][part]
    assert outcome is True or (outcome is None and part == "drafts mtp"), outcome
