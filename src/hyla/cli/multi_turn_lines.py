"""Conversations of many turns from the command line, with one model or a model and its twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyla.checkpoints import load_tokenizer, resolve
from hyla.cli.console import console, items_bar, loading_bar, show
from hyla.cli.long_context_lines import check_cost, price_of
from hyla.engine import Engine
from hyla.errors import ConfigError
from hyla.evals.costs import Price
from hyla.evals.long_context.source import source_of
from hyla.evals.multi_turn.report import by_turns, cost_table, markdown, plot
from hyla.evals.multi_turn.run import Conversation, MultiTurn, MultiTurnRequest
from hyla.train.files import held, writing
from hyla.whole_files import write_whole

TWIN = "twin"
"""The folder of the twin's results, in that of the model's."""
SHOWN = 40
"""Characters of an answer."""


def converse_all(
    models: Sequence[str],
    out: Path,
    request: MultiTurnRequest,
    texts: Path | None,
    options: dict[str, Any],
    cost: tuple[float | None, str | None] = (None, None),
) -> None:
    """Have every conversation, with the first model and then with its twin if there are two; show each, then tables;
    write report.md and turns.png.

    cost: the price of an hour, and of which device (None: this machine). Raises ConfigError for a twin that is the
    model itself, and for a device without price.
    """
    check_cost(cost)
    if len(set(models)) < len(models):
        raise ConfigError(f"--twin {models[0]} is the model itself; give another one, or leave it out")
    words = source_of(texts).essay
    results, forms, prices = {}, {}, {}
    with held(out):
        for name, folder in zip(models, (out, out / TWIN)):
            results[name], forms[name], prices[name] = _conversed(name, folder, request, words, options, cost)
        with writing(out):
            write_whole(out / "report.md", markdown(results, forms, prices))
            plot(results, out / "turns.png")
    show(by_turns(results), cost_table(results, prices))
    console.print(f"wrote {out / 'report.md'} and turns.png", soft_wrap=True)


def _conversed(
    name: str,
    folder: Path,
    request: MultiTurnRequest,
    words: Sequence[str],
    options: dict[str, Any],
    cost: tuple[float | None, str | None],
) -> tuple[list[Conversation], str, Price | None]:
    """(all conversations, how they were written, what they cost)."""
    place = resolve(name)
    tokenizer = load_tokenizer(place)
    with loading_bar() as progress:
        engine = Engine(place, tokenizer=tokenizer, progress=progress, **options)
    try:
        evals = MultiTurn(folder, request, engine, tokenizer, words)
        console.print(f"{name}: {evals.form.name}", soft_wrap=True, markup=False)
        if evals.done:
            console.print(f"{len(evals.done)} conversations were had before")
        with items_bar(lambda: engine.num_tokens) as bar:
            bar.begin(evals.num_items, len(evals.done))
            lines = evals.run(lambda line: bar.item(_told(line)), bar.step)
        return lines, evals.form.name, price_of(cost, engine.model)
    finally:
        engine.close()


def _told(line: Conversation) -> str:
    right = sum(answer.is_right for answer in line.answers)
    last = line.answers[-1]
    return (
        f"conversation {line.number} of {line.turns} turns: {right} of {len(line.answers)} right; last: "
        f"{last.question} {last.answer.strip()[:SHOWN]!r} ({last.wanted})"
    )
