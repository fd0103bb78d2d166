"""Runs the soak: `make soak`, or `PYTHONPATH=tests:tests/engine python -m soak.run --requests 5000`."""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from soak.load import soak

from hyla.ops.host_memory import keep_freed_memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--questions", type=int, default=300, help="distinct ones, for each kind of speculation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speculation", nargs="+", default=["lookup", "mtp", "draft"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    start = time.perf_counter()
    result = soak(args.requests, num_questions=args.questions, seed=args.seed, speculations=args.speculation)
    for name, count in sorted(result.counts.items()):
        print(f"{name:32} {count:>10,}")
    print("resident MiB at each tenth:", *(f"{size / 2**20:.0f}" for size in result.rss))
    print(*result.problems[:20], sep="\n")
    numbers = {"wrong": len(result.problems), "seconds": round(time.perf_counter() - start), **result.counts}
    print(json.dumps(numbers | {"rss_first": result.rss[0], "rss_last": result.rss[-1]}))
    return int(bool(result.problems))


if __name__ == "__main__":
    sys.exit(main())
