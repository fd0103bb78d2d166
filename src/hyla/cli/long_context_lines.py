"""An eval of long contexts from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from hyla.checkpoints import load_tokenizer, resolve
from hyla.cli.console import console, loading_bar
from hyla.engine import Engine
from hyla.evals.long_context.report import heat_map, markdown, table
from hyla.evals.long_context.run import Answered, LongContextRequest, LongContexts
from hyla.evals.long_context.source import source_of
from hyla.train.files import held, writing
from hyla.whole_files import write_whole

SHOWN = 60
"""Characters of an answer."""


def ask_all(name: str, out: Path, request: LongContextRequest, texts: Path | None, options: dict[str, Any]) -> None:
    """Ask, show every item, then the table; write report.md and, where needles have depths, heat-map.png."""
    source, place = source_of(texts), resolve(name)
    tokenizer = load_tokenizer(place)
    with loading_bar() as progress:
        engine = Engine(place, tokenizer=tokenizer, progress=progress, **options)
    try:
        with held(out):
            evals = LongContexts(out, request, engine, tokenizer, source)
            if evals.answered:
                console.print(f"{len(evals.answered)} items were answered before")
            lines = evals.run(_say)
            with writing(out):
                write_whole(out / "report.md", markdown(lines))
                has_map = heat_map(lines, out / "heat-map.png")
    finally:
        engine.close()
    first, *others = table(lines)
    shown = Table(*first)
    for row in others:
        shown.add_row(*row)
    console.print(shown)
    console.print(f"wrote {out / 'report.md'}" + (" and heat-map.png" if has_map else ""), soft_wrap=True)


def _say(line: Answered) -> None:
    depth = "" if line.depth is None else f", depth {line.depth:.0%}"
    console.print(
        f"{line.kind}, {line.length:,} tokens, item {line.number}{depth}: {line.score:.0%}, "
        f"{line.answer.strip()[:SHOWN]!r}",
        soft_wrap=True,
    )
