"""No number differs from the recorded ones (`record.py` says how they are made and written)."""

import pytest
from recorded import record

pytestmark = pytest.mark.slow


def test_every_recorded_number_is_computed_again():
    old = record.stored()
    machine = record.header()
    if any(old[name] != value for name, value in machine.items()):
        pytest.skip(f"hashes.json was written on another machine than {machine}")
    assert record.differences(record.compute(), old["hashes"]) == {}


def test_a_difference_is_named():
    expected = {"f/float32/native-1/logits": "a", "f/float32/native-2/logits": "b", "f/float32/folder/config.json": "c"}
    found = {"f/float32/native-1/logits": "a", "f/float32/native-2/logits": "d", "f/preset/small/config": "e"}
    assert record.differences(found, expected) == {
        ("f", "logits"): ["float32/native-2"],
        ("f", "config.json"): ["float32/folder (missing now)"],
        ("f", "config"): ["preset/small (not in hashes.json)"],
    }
