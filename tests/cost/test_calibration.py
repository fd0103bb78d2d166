"""Rates fitted to points, the file that keeps them, and one real measurement."""

import pytest

from hyla.cost.calibration import NEVER, Point, calibration_file, fit, load_calibration, save_calibration
from hyla.cost.device import Rate
from hyla.cost.devices import DEVICES, find_device
from hyla.cost.timing import Case, case_seconds, fill
from hyla.errors import ConfigError
from hyla.models.config import GatedDeltaConfig, MLPConfig


def points_of(rate, cases):
    return [Point(calls, flops, nbytes, rate(calls, flops, nbytes)) for calls, flops, nbytes in cases]


CASES = [(2, 1e9, 1e6), (4, 2e9, 1e8), (1, 8e9, 3e7), (3, 1e6, 9e8)]


def test_a_fit_finds_the_rates_that_made_the_points():
    points = points_of(lambda calls, flops, nbytes: 1e-4 * calls + flops / 5e10 + nbytes / 2e10, CASES)
    rate = fit(points)
    assert (rate.overhead_seconds, rate.flops_per_second) == (pytest.approx(1e-4), pytest.approx(5e10))
    assert rate.bytes_per_second == pytest.approx(2e10) and rate.adds_up
    read_only = fit(points_of(lambda calls, flops, nbytes: nbytes / 2e10, CASES), ("calls", "nbytes"))
    assert read_only.flops_per_second == NEVER and read_only.overhead_seconds == pytest.approx(0.0, abs=1e-12)


def test_a_fit_never_has_a_negative_part():
    # Less time for more work: the overhead alone is left.
    rate = fit([Point(1, 1e9, 0.0, 2e-3), Point(1, 2e9, 0.0, 1e-3)], ("calls", "flops"))
    assert rate.overhead_seconds > 0 and rate.flops_per_second == NEVER
    nothing = fit([Point(1, 1e9, 1e6, -1e-3), Point(1, 2e9, 1e6, 0.0)])
    assert min(nothing.overhead_seconds, nothing.flops_per_second, nothing.bytes_per_second) >= 0


def test_a_machine_is_stored_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="not calibrated; run `hyla cost --calibrate` once"):
        find_device("this")
    from hyla.cost.calibration import machine_of

    rates = {"kda/decode": Rate(1e9, 2e9, 3e-5, adds_up=True)}
    machine = machine_of(
        bytes_per_second=4e10, memory_bytes=2e10, source="a test", peak_flops={"bf16": 1e11}, rates=rates
    )
    save_calibration(machine)
    assert calibration_file().is_relative_to(tmp_path) and find_device("This") == machine
    assert machine.arithmetic == "hyla" and machine.name == "this"
    for damage in ("{", "[]", '{"rates": {"a": {}}}', '{"rates": 3}'):
        calibration_file().write_text(damage)
        with pytest.raises(ConfigError, match="is damaged"):
            load_calibration()


def test_a_real_sublayer_is_timed_in_both_phases():
    delta = GatedDeltaConfig(num_key_heads=1, num_value_heads=2, key_dim=32, value_dim=32)
    decode, prompt = (case_seconds(Case(module, *at)) for module, at in ((delta, (100, 1)), (delta, (0, 96))))
    assert 0 < decode < 1 and 0 < prompt < 10
    assert case_seconds(Case(MLPConfig(intermediate_dim=64), 0, 1)) > 0


def test_a_filled_cache_stands_at_its_context():
    from hyla.caches import Cache
    from hyla.models.formats.registry import family_of
    from hyla.models.trunk import Model

    cache = Cache(Model(family_of("qwen3_5").tiny).cache_specs(), num_pages=3, num_slots=1)
    sequence = fill(cache, 130)
    assert sequence.length == 130 and len(sequence.pages) == 3
    assert all(tensor.abs().max() > 0 for layer in cache.layers for tensor in layer.values())


def test_the_table_of_devices_is_not_changed_by_a_machine():
    assert "this" not in DEVICES and all(not device.rates for device in DEVICES.values())
