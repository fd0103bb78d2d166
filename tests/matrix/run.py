"""Runs the whole exactness matrix: `make exactness`, or `PYTHONPATH=tests python -m matrix.run --help`.

Results are lines of JSON in a file; a run that was stopped goes on where it was, for the same source. Results of other
sources are left out of the report, which is printed at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import platform
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

from matrix.cells import DIMENSIONS, Cell, in_order, num_cells, pairwise

import hyla

PARTS = (
    "errors.py",
    "grid.py",
    "json_files.py",
    "lazy.py",
    "limited_process",
    "ranges.py",
    "terminal_text.py",
    "user_cache.py",
    "whole_files.py",
    "ops",
    "layers",
    "models",
    "caches",
    "checkpoints",
    "cost",
    "engine",
)
"""The parts of the package that a cell can import."""
COMPUTES = ("cells.py", "check.py", "mixers.py", "subject.py")
"""The files beside this one that decide what a cell is and what it gives."""


def fingerprint() -> str:
    """Of the source of what computes a cell."""
    package, here = Path(hyla.__file__).parent, Path(__file__).parent
    parts = [package / part for part in PARTS]
    files = [path for part in parts for path in (sorted(part.rglob("*.*")) if part.is_dir() else [part])]
    sources = [path for path in files if path.suffix in (".py", ".c", ".h")]
    digest = hashlib.sha256()
    for path in (*sources, *(here / name for name in COMPUTES)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def compute(cell: Cell) -> dict:
    """One line of the results."""
    from matrix.check import run_cell

    start = time.perf_counter()
    try:
        problems = run_cell(cell)
    except Exception as error:  # a cell that cannot be computed is a cell that fails
        problems = [f"{type(error).__name__}: {error}"]
    return {"cell": asdict(cell), "problems": problems, "seconds": round(time.perf_counter() - start, 3)}


def read(path: Path, source: str) -> dict[Cell, dict]:
    """Results of this source; of a cell that stands there twice, the later ones."""
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return {Cell(**entry["cell"]): entry for entry in entries if entry["source"] == source}


def run(cells: list[Cell], path: Path, source: str, *, minutes: float, jobs: int) -> None:
    """Compute cells until they are done or the time is over, and append their results."""
    end = time.monotonic() + 60 * minutes
    context = multiprocessing.get_context("spawn")
    path.parent.mkdir(parents=True, exist_ok=True)
    left, running = iter(cells), set()
    with path.open("a") as file, ProcessPoolExecutor(jobs, mp_context=context) as pool:
        while True:
            while len(running) < 2 * jobs and time.monotonic() < end and (cell := next(left, None)) is not None:
                running.add(pool.submit(compute, cell))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                file.write(json.dumps(future.result() | {"source": source}) + "\n")
                file.flush()


def report(results: dict[Cell, dict], source: str) -> str:
    """The counts as Markdown."""
    failed = [entry for entry in results.values() if entry["problems"]]
    covered = sum(cell in results for cell in pairwise())
    lines = [
        f"Source {source} on {platform.machine()}, Python {platform.python_version()}: {len(results)} of {num_cells()} "
        f"cells run ({covered} of {len(pairwise())} of the covering set), {len(results) - len(failed)} passed, "
        f"{len(failed)} failed; {sum(entry['seconds'] for entry in results.values()):.0f} s of computing.",
        "",
        "| dimension | value | run | passed |",
        "|---|---|---|---|",
    ]
    for name, values in DIMENSIONS.items():
        run_by = Counter(getattr(cell, name) for cell in results)
        failed_by = Counter(getattr(cell, name) for cell, entry in results.items() if entry["problems"])
        lines += [f"| {name} | {v} | {run_by[v]} | {run_by[v] - failed_by[v]} |" for v in values]
    lines += [f"FAILED {Cell(**entry['cell']).name}: {'; '.join(entry['problems'])}" for entry in failed[:50]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("runs/exactness.jsonl"), help="the file to go on with")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop starting cells after this time")
    parser.add_argument("--cells", type=int, default=None, help="run at most this many new cells")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--again", action="store_true", help="also run cells that failed before")
    args = parser.parse_args()
    source = fingerprint()
    results = read(args.results, source)
    wanted = [c for c in in_order() if c not in results or (args.again and results[c]["problems"])]
    run(wanted[: args.cells], args.results, source, minutes=args.minutes, jobs=args.jobs)
    results = read(args.results, source)
    print(report(results, source))
    print(
        json.dumps(
            {"cells": num_cells(), "run": len(results), "failed": sum(bool(e["problems"]) for e in results.values())}
        )
    )
    return int(any(entry["problems"] for entry in results.values()))


if __name__ == "__main__":
    sys.exit(main())
