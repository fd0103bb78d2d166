"""lm-evaluation-harness from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyla.checkpoints import load_tokenizer, resolve
from hyla.cli.console import console, items_bar, loading_bar, show
from hyla.engine import Engine
from hyla.evals.harness.report import cost_table, markdown, table
from hyla.evals.harness.run import HarnessRequest, plugin, run
from hyla.train.files import held, writing
from hyla.whole_files import write_whole


def ask_all(name: str, out: Path, request: HarnessRequest, options: dict[str, Any]) -> None:
    """Ask, then the tables; write report.md."""
    plugin()  # without it there is nothing to load a model for
    place = resolve(name)
    tokenizer = load_tokenizer(place)
    with loading_bar() as progress:
        engine = Engine(place, tokenizer=tokenizer, progress=progress, **options)
    try:
        with held(out), items_bar(lambda: engine.num_tokens) as bar:
            rows, num_truncated = run(out, request, engine, tokenizer, name, bar)
            with writing(out):
                write_whole(out / "report.md", markdown(rows, num_truncated))
    finally:
        engine.close()
    show(table(rows), cost_table(rows))
    console.print(f"wrote {out / 'report.md'}", soft_wrap=True)
