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
    """By family, from two processes of their own side by side (the device, once registered, stays)."""
    commands = [[sys.executable, "life.py", *FAMILIES[part::2]] for part in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    found = {}
    for process in [subprocess.Popen(command, cwd=HERE, **pipes) for command in commands]:
        out, err = process.communicate(timeout=1500)
        assert process.returncode == 0, err[-2000:]
        found |= {life["family"]: life for life in map(json.loads, out.splitlines())}
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_family_s_life_has_the_cpu_s_bits(family, part):
    outcome = lives()[family]["equal"][part]
    assert outcome is True or (outcome is None and part == "drafts mtp"), outcome
