"""Does Hyla compute right on this device? At most two minutes; results are printed as they come.

    python tests/devices/smoke.py [--device cuda] [--seconds 115] [--jobs 10] [--short] [--only PART ...]

Parts in order of importance; when the time is up, what was left out is named. A part that fails does not stop the
others. The last line is JSON; the exit status is 1 if anything failed. On the CPU the parts run in the portable
arithmetic, so that they can be tried without a card; on the device "pretend" (`pretend.py`) under a card's rules too,
where the parts that start processes are left out with --only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

# Read when the libraries are loaded: equal bits of cuBLAS from run to run need a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "devices")]

STARTED = time.monotonic()

SHARES = {
    "card": 0.1, "parity": 0.3, "training": 0.45, "served": 0.55, "repeated": 0.7, "rows": 0.8, "primitives": 0.85,
    "matrix": 1.0,
}  # fmt: skip
"""By part: the share of the whole time at which it must be over. What runs early leaves more to the later ones."""

LEAST = 0.06
"""Of the whole time: what a part gets although those before it took too long."""


def run_part(name: str, part: Callable, smoke) -> dict:
    """Print a part's lines as they come; what it found, as data."""
    start, count = time.monotonic(), len(smoke.skipped)
    failed, told, num_good = [], {}, 0
    try:
        for line in part(smoke):
            mark = {True: "ok", False: "FAILED", None: ""}[line.is_good]
            print(f"{name:11}{mark:7}{line.name:32} {line.text}", flush=True)
            num_good += line.is_good is True
            if line.is_good is False:
                failed.append(f"{line.name}: {line.text}")
            elif line.is_good is None:
                told[line.name] = line.text
    except Exception as error:
        traceback.print_exc()
        failed.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    skipped = smoke.skipped[count:]
    seconds = round(time.monotonic() - start, 1)
    found = {"ok": num_good, "failed": failed, "skipped": skipped, "told": told, "seconds": seconds}
    return {key: value for key, value in found.items() if value or key in ("ok", "failed")}


def run_parts(parts: dict[str, Callable], smoke, seconds: float) -> dict[str, dict]:
    """All of them, each until its share of the time is over."""
    results = {}
    for name, part in parts.items():
        until = max(STARTED + SHARES[name] * seconds, time.monotonic() + LEAST * seconds)
        smoke.until = min(until, smoke.end)
        results[name] = run_part(name, part, smoke)
    return results


def table(results: dict[str, dict]) -> str:
    lines = [f"{'part':12}{'ok':>5}{'failed':>8}{'skipped':>9}{'seconds':>9}"]
    for name, found in results.items():
        counts = f"{found['ok']:>5}{len(found['failed']):>8}{len(found.get('skipped', [])):>9}"
        lines.append(f"{name:12}{counts}{found.get('seconds', 0.0):>9}")
    skipped = [f"{name}: {', '.join(found['skipped'])}" for name, found in results.items() if found.get("skipped")]
    return "\n".join([*lines, *(f"left out, no time: {line}" for line in skipped)])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=115.0, help="after which nothing new is begun")
    parser.add_argument("--jobs", type=int, default=10, help="processes for the exactness matrix; 0: this one")
    parser.add_argument("--short", action="store_true", help="few of everything")
    parser.add_argument("--only", nargs="+", choices=SHARES, default=list(SHARES), metavar="PART")
    options = parser.parse_args(arguments)

    import smoke_parts
    import torch

    from hyla.ops import backends
    from hyla.ops.devices import resolve_device

    if options.device == "pretend":
        from pretend import register

        register()
    device = resolve_device(options.device)
    if device.type == "cpu":
        backends.use("portable")
    torch.set_num_threads(1)
    logging.getLogger("hyla.ops").addHandler(loops := smoke_parts.Loops())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        smoke = smoke_parts.Smoke(device, options.short, STARTED + options.seconds, folder)
        parts = {
            "card": smoke_parts.card,
            "parity": smoke_parts.parity,
            "training": smoke_parts.training,
            "repeated": smoke_parts.repeated,
            "rows": smoke_parts.row_proofs,
            "primitives": smoke_parts.primitives,
        }
        # What has processes of its own starts first and is asked last.
        if "served" in options.only:
            parts["served"] = stack.enter_context(closing(smoke_parts.Served(smoke))).check
        if "matrix" in options.only:
            parts["matrix"] = stack.enter_context(closing(smoke_parts.Matrix(smoke, options.jobs))).check
        results = run_parts({name: parts[name] for name in SHARES if name in options.only}, smoke, options.seconds)
    print(table(results))
    for line in loops.lines:
        print(line)
    passed = not any(found["failed"] for found in results.values())
    seconds = round(time.monotonic() - STARTED, 1)
    print(
        json.dumps(
            {"device": str(device), "passed": passed, "seconds": seconds, "loops": loops.lines, "parts": results}
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
