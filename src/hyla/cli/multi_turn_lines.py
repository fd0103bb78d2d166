"""Conversations of many turns from the command line, with one model or a model and its twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hyla.checkpoints import load_tokenizer, resolve
from hyla.cli.console import console, loading_bar
from hyla.engine import Engine
from hyla.errors import ConfigError
from hyla.evals.long_context.source import source_of
from hyla.evals.multi_turn.report import by_turns, markdown, plot
from hyla.evals.multi_turn.run import Conversation, MultiTurn, MultiTurnRequest
from hyla.train.files import held, writing
from hyla.whole_files import write_whole

TWIN = "twin"
"""The folder of the twin's results, in that of the model's."""


def converse_all(
    models: Sequence[str], out: Path, request: MultiTurnRequest, texts: Path | None, options: dict[str, Any]
) -> None:
    """Have every conversation, with the first model and then with its twin if there are two; show each, then a table;
    write report.md and turns.png. Raises ConfigError for a twin that is the model itself."""
    if len(set(models)) < len(models):
        raise ConfigError(f"--twin {models[0]} is the model itself; give another one, or leave it out")
    words = source_of(texts).essay
    results, forms = {}, {}
    with held(out):
        for name, folder in zip(models, (out, out / TWIN)):
            results[name], forms[name] = _conversed(name, folder, request, words, options)
        with writing(out):
            write_whole(out / "report.md", markdown(results, forms))
            plot(results, out / "turns.png")
    first, *others = by_turns(results)
    shown = Table(*first)
    for row in others:
        shown.add_row(*row)
    console.print(shown)
    console.print(f"wrote {out / 'report.md'} and turns.png", soft_wrap=True)


def _conversed(
    name: str, folder: Path, request: MultiTurnRequest, words: Sequence[str], options: dict[str, Any]
) -> tuple[list[Conversation], str]:
    """(all conversations, how they were written)."""
    place = resolve(name)
    tokenizer = load_tokenizer(place)
    with loading_bar() as progress:
        engine = Engine(place, tokenizer=tokenizer, progress=progress, **options)
    try:
        evals = MultiTurn(folder, request, engine, tokenizer, words)
        console.print(f"{name}: {evals.form.name}", soft_wrap=True, markup=False)
        if evals.done:
            console.print(f"{len(evals.done)} conversations were had before")
        return evals.run(_say), evals.form.name
    finally:
        engine.close()


def _say(line: Conversation) -> None:
    right = sum(answer.is_right for answer in line.answers)
    last = line.answers[-1]
    console.print(
        f"conversation {line.number} of {line.turns} turns: {right} of {len(line.answers)} right; last: "
        f"{last.question} {last.answer.strip()[:40]!r} ({last.wanted})",
        soft_wrap=True,
        markup=False,
    )
