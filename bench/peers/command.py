"""The command: options, environments or rounds, tables."""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.machine import usable_cores
from bench.outcome import Outcome
from bench.peers.environments import ENVIRONMENTS, install
from bench.peers.goals import GOALS, reached, title_of
from bench.peers.models import Files
from bench.peers.parts import PARTS, measured
from bench.peers.rounds import Row, as_json
from bench.peers.stage import Run, open_memory
from bench.peers.tables import tables

ENGINES = ("hyla", *ENVIRONMENTS)


def listed(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Names with commas between them, in the order that they are known in."""

    def read(words: str) -> list[str]:
        unknown = set(words.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose among {', '.join(known)}")
        return [name for name in known if name in words.split(",")]

    return read


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--environments", type=Path, help="the folder that --install made; ENGINE/bin/python in it")
    parser.add_argument("--install", type=Path, metavar="DIR", help="make the environments there instead of measuring")
    parser.add_argument("--parts", type=listed(PARTS), default=list(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--engines", type=listed(ENGINES), default=list(ENGINES), help=f"of {','.join(ENGINES)}")
    parser.add_argument("--folder", type=Path, help="where models are, or are made (8 GB); default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16, help="counted tokens of a round of one stream")
    parser.add_argument("--longest", type=int, default=4096, help="tokens of prompts and depths, the part long apart")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds until an engine's answer is given up")


def run(options: argparse.Namespace) -> Outcome:
    if options.install:
        return installed(options)
    with contextlib.ExitStack() as scratch:
        temporary = Path(scratch.enter_context(tempfile.TemporaryDirectory()))
        folder = (options.folder or temporary / "models").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        (temporary / "logs").mkdir()
        files = Files(folder, (options.environments or Path("environments")).absolute())
        threads = options.threads or usable_cores()
        own = Run(files, temporary / "logs", threads, options.rounds, options.steps, options.patience, options.longest)
        open_memory(own)
        try:
            rows = [shown(row) for row in measured(own, options.engines, options.parts)]
        finally:
            if own.memory is not None:
                own.memory.close()
    print(f"\n{tables(rows, GOALS)}\n")
    return Outcome({"rows": {row.title: as_json(row) | held(row) for row in rows}, "versions": own.versions})


def shown(row: Row) -> Row:
    """A line as soon as a row is done."""
    cells = [f"{title_of(name)} {row.median(name):.1f}" for name in row.rates]
    print(f"{row.title}: {', '.join(cells)} {json.dumps(row.reasons) if row.reasons else ''}".rstrip(), flush=True)
    return row


def held(row: Row) -> dict:
    """What the row reaches of its goals."""
    found = [
        {"at_least": own.at_least, "against": own.against, "reached": reached(row, own)}
        for own in GOALS.get(row.title, ())
    ]
    return {"goals": found} if found else {}


def installed(options: argparse.Namespace) -> Outcome:
    found = install(options.install.absolute(), [name for name in options.engines if name in ENVIRONMENTS])
    for name, reason in found.items():
        print(f"{title_of(name)}: {reason or 'installed'}")
    return Outcome(found, passed=not any(found.values()))
