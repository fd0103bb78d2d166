"""The smoke run for devices, on the CPU: so that it works when there is a card for two minutes."""

import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import oracle
import pytest
import smoke
import smoke_parts
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hyla.ops import backends
from hyla.ops.exact import portable

HERE = Path(__file__).parent


@pytest.fixture
def run(tmp_path, request):
    backends.use("portable")
    start = time.monotonic()
    yield smoke_parts.Smoke(torch.device("cpu"), True, start + 600, tmp_path, start + 600)
    backends.use(request.config.getoption("--backend") or "auto")


PARTS_IN_ONE_PROCESS = ("card", "parity", "training", "rows", "primitives")


@pytest.mark.parametrize(("device", "parts"), [("cpu", tuple(smoke.SHARES)), ("pretend", PARTS_IN_ONE_PROCESS)])
def test_a_short_run_passes_on_the_cpu_and_under_the_rules_of_a_card(device, parts):
    options = ["--device", device, "--short", "--jobs", "0", "--seconds", "1500", "--only", *parts]
    command = [sys.executable, HERE / "smoke.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["passed"] and set(report["parts"]) == set(parts)
    assert all(part["ok"] and not part.get("skipped") for part in report["parts"].values())


def test_a_part_that_fails_does_not_stop_the_others(run, capsys):
    def broken(smoke):
        yield smoke_parts.Line("first", "good")
        yield smoke_parts.Line("second", "bad", False)
        raise RuntimeError("no such kernel\nfile.cu, line 3")

    smoke.SHARES.update(broken=1.0, after=1.0)
    try:
        parts = {"broken": broken, "after": lambda smoke: iter([smoke_parts.Line("third", "good")])}
        found = smoke.run_parts(parts, run, 600)
    finally:
        del smoke.SHARES["broken"], smoke.SHARES["after"]
    assert found["broken"]["failed"] == ["second: bad", "RuntimeError: no such kernel"]
    assert found["broken"]["ok"] == found["after"]["ok"] == 1 and not found["after"]["failed"]
    assert "FAILED second" in capsys.readouterr().out


def test_what_there_is_no_time_for_is_named(run):
    run.until = run.end = 0.0
    found = {"parity": smoke.run_part("parity", smoke_parts.parity, run)}
    assert found["parity"]["skipped"][:2] == ["kimi_linear fp32", "kimi_linear bf16"] and found["parity"]["ok"] == 0
    assert "left out, no time: parity: kimi_linear fp32" in smoke.table(found)


def test_a_wrong_product_is_seen(run, monkeypatch):
    """Each product is a thousandth too large."""
    plain = portable.library_linear
    monkeypatch.setattr("hyla.ops.exact.portable.library_linear", lambda x, w, b=None: plain(x, w, b) * (1 + 1e-3))
    lines = [*smoke_parts.parity(run), *smoke_parts.training(run)]
    assert not any(line.is_good for line in lines if "bf16" not in line.name)


def test_the_kept_numbers_are_those_of_float64():
    kept = oracle.load()
    assert {name.partition(".")[0] for name in kept} == set(oracle.FAMILIES)
    for family in ("qwen3", "kimi_linear"):
        model = oracle.cast(oracle.tiny_model(family, torch.float32), torch.float64)
        # Decays are fp32 in any model, and two processors' exponentials differ in the last bit: a hundredth of what a
        # device is allowed. Without decays only float64's own rounding is left, and one bit of the kept fp32.
        share, bits = (1e-2, 1e-5) if family == "kimi_linear" else (1e-3, 1e-9)
        expected = kept[f"{family}.fp32"].double()
        worst = (oracle.logits(model.eval()) - expected).abs().max() / expected.abs().max()
        assert float(worst) <= share * oracle.FP32_TOLERANCE
        assert torch.allclose(oracle.gradients(model), kept[f"{family}.gradients"], rtol=bits, atol=bits / 1e3)


def test_the_wheels_for_a_card_s_machine_lack_nothing():
    lines = (HERE / "wheels.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert {"pydantic", "fastapi", "uvicorn", "llguidance"} <= pinned
    there = {"click", "h11", "idna"}  # with typer and httpx
    for name in pinned:
        for needed in map(Requirement, metadata.requires(name) or ()):
            is_needed = needed.marker is None or needed.marker.evaluate({"extra": "", "python_version": "3.12"})
            assert not is_needed or canonicalize_name(needed.name) in pinned | there, f"{name} needs {needed}"
