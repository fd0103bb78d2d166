"""`python -m bench NAME [options] [--base REVISION]`; without a name, the list of names."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module

from bench import machine, revisions, turns
from bench.registry import BENCHMARKS, listing

USAGE = "python -m bench NAME [--base REVISION [--pairs N]] [options; python -m bench NAME --help]"


def run_one(name: str, arguments: list[str]) -> int:
    """Run a benchmark in this process; its numbers are the last line of the output, as JSON."""
    turns.join()
    module = import_module(f"bench.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    threads = getattr(module, "THREADS", None)
    parser.add_argument("--threads", type=int, default=threads, help=f"of PyTorch; default: {threads or 'its own'}")
    if hasattr(module, "add_options"):
        module.add_options(parser)
    options = parser.parse_args(arguments)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    outcome = module.run(options)
    line = {"bench": name, **machine.facts(), "options": vars(options)}
    line |= {"passed": outcome.passed, "digest": outcome.digest, "seconds": outcome.seconds}
    line = {key: value for key, value in line.items() if value not in (None, {})}
    print(json.dumps({**line, "results": outcome.results}, default=str))
    return 1 if outcome.passed is False else 0


def main(arguments: list[str]) -> int:
    if not arguments:
        print(f"{USAGE}\n\n{listing()}")
        return 0
    name, *rest = arguments
    if name not in BENCHMARKS:
        print(f"there is no benchmark {name!r}\n\n{USAGE}\n\n{listing()}", file=sys.stderr)
        return 2
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--base", metavar="REVISION", help="compare the sources here with those of a git revision")
    common.add_argument("--pairs", type=int, default=2, help="pairs of runs, with --base")
    chosen, own = common.parse_known_args(rest)
    if "--help" in own or "-h" in own:
        print(common.format_help())
    return revisions.compare(name, own, chosen.base, chosen.pairs) if chosen.base else run_one(name, own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
