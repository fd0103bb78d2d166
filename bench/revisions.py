"""`--base REVISION`: one benchmark over two source trees, in turn.

The benchmark is the one here; only what `import hyla` finds differs, so it must use names that both trees have
(bench/hyla_names.py). Two processes live at the same time, one for each tree, and only one of them computes: they take
turns wherever the benchmark says `take_turn` (bench/turns.py), or run one after the other where it never does. That is
done several times over. Ratios are base over here: above 1, the sources here are faster.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import machine
from bench.turns import VARIABLE

ROOT = machine.ROOT
OPTIONS = {"qwen35_shape": ("--alone", "--cpu-time", "--dtypes", "bfloat16", "--context", "32")}
"""By benchmark, what a comparison is run with before the options that are given: the part that needs Hyla alone, by a
clock that does not count what others take."""


@contextlib.contextmanager
def tree_of(revision: str, scratch: Path) -> Iterator[Path]:
    """A temporary git worktree of a revision."""
    place = scratch / "base"
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(place), revision], check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(place)], check=True)


def start(tree: Path, command: list[str], scratch: Path, reading: int, writing: int, place: str) -> subprocess.Popen:
    """A run that imports Hyla from a tree; what it prints goes to files."""
    paths = [str(tree / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "BENCH_SCRATCH": str(scratch)}
    own[VARIABLE] = f"{reading} {writing} {place}"
    with (scratch / f"{place}.out").open("w") as out, (scratch / f"{place}.err").open("w") as err:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | own, stdout=out, stderr=err, pass_fds=(reading, writing)
        )


def finished(process: subprocess.Popen, tree: Path, scratch: Path, place: str) -> dict:
    """The last line of a run."""
    status = process.wait()
    try:
        line = json.loads((scratch / f"{place}.out").read_text().strip().splitlines()[-1])
    except (IndexError, ValueError):
        problem = (scratch / f"{place}.err").read_text()[-3000:]
        raise SystemExit(f"the run on {tree} ended with {status}:\n{problem}") from None
    if Path(line["source"]) != tree / "src":
        raise SystemExit(f"{line['source']} was measured instead of {tree / 'src'}")
    if not line.get("seconds"):
        raise SystemExit("this benchmark gives no times that two revisions could be compared by")
    return line


def run_pair(trees: list[Path], command: list[str], scratch: Path) -> list[dict]:
    """The last lines of two runs that took turns, the first tree's first."""
    (read_one, write_one), (read_two, write_two) = os.pipe(), os.pipe()
    ends = [(read_two, write_one, "first"), (read_one, write_two, "second")]
    processes = []
    try:
        for tree, (reading, writing, place) in zip(trees, ends):
            processes.append(start(tree, command, scratch, reading, writing, place))
        for descriptor in (read_one, write_one, read_two, write_two):
            os.close(descriptor)
        return [finished(*both, scratch, place) for *both, (_, _, place) in zip(processes, trees, ends)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compared(base: list[dict], here: list[dict]) -> dict[str, dict[str, float]]:
    """By figure: the ratio of medians over all times, its least and largest over pairs of runs; the median of the
    ratios of times that were taken in the same turn; the ratio of the least times."""
    rows = {}
    for figure in here[0]["seconds"]:
        times = [[run["seconds"][figure] for run in runs] for runs in (base, here)]
        pairs = [statistics.median(one) / statistics.median(other) for one, other in zip(*times)]
        every = [[value for run in runs for value in run] for runs in times]
        middle = [statistics.median(values) for values in every]
        rows[figure] = {
            "base_ms": round(1e3 * middle[0], 3),
            "here_ms": round(1e3 * middle[1], 3),
            "ratio": round(middle[0] / middle[1], 4),
            "low": round(min(pairs), 4),
            "high": round(max(pairs), 4),
            "paired_ratio": round(statistics.median(one / other for one, other in zip(*every)), 4),
            "ratio_of_least": round(min(every[0]) / min(every[1]), 4),
        }
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| figure | base, ms | here, ms | ratio [of pairs of runs] | paired | of least |",
        "|---|---|---|---|---|---|",
    ]
    for figure, row in rows.items():
        ratio = f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        cells = [figure, f"{row['base_ms']:.2f}", f"{row['here_ms']:.2f}", ratio]
        cells += [f"{row['paired_ratio']:.3f}", f"{row['ratio_of_least']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def compare(name: str, arguments: list[str], revision: str, pairs: int) -> int:
    """Print how fast the sources here are beside a revision's; every other pair begins with the sources here."""
    command = [sys.executable, "-m", "bench", name, *OPTIONS.get(name, ()), *arguments]
    base, here = [], []
    with tempfile.TemporaryDirectory() as temporary, tree_of(revision, Path(temporary)) as tree:
        commits = {"base": machine.commit_of(tree), "here": machine.commit_of(ROOT)}
        for number in range(pairs):
            trees = [tree, ROOT] if number % 2 == 0 else [ROOT, tree]
            found = run_pair(trees, command, Path(temporary))
            for place, line in zip(trees, found):
                (base if place == tree else here).append(line)
            for label, runs in (("base", base), ("here", here)):
                shown = {key: statistics.median(times) for key, times in runs[-1]["seconds"].items()}
                print(label, *(f"{key} {1e3 * value:.2f} ms" for key, value in shown.items()), flush=True)
    rows = compared(base, here)
    print(f"\nbase {commits['base']} over here {commits['here']}; above 1, here is faster\n{table(rows)}")
    digests = {run.get("digest") for run in base + here}
    same_bits = None if None in digests else len(digests) == 1
    print({True: "the same bits", False: "DIFFERENT BITS", None: "bits were not compared"}[same_bits])
    kept = ("processor", "cores", "threads", "load", "cpu_backend", "python", "torch", "options")
    facts = {key: here[-1][key] for key in kept if key in here[-1]}
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    line = {"bench": name, "date": date, **facts, "commits": commits, "pairs": pairs, "same_bits": same_bits}
    print(json.dumps({**line, "figures": rows}))
    return 0
