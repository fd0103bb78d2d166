"""An eval of long contexts from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hyla.checkpoints import load_tokenizer, resolve
from hyla.cli.console import console, items_bar, loading_bar, show
from hyla.cost.devices import find_device
from hyla.cost.roofline import check_price
from hyla.engine import Engine
from hyla.errors import ConfigError
from hyla.evals.costs import Price
from hyla.evals.long_context.report import cost_table, heat_map, markdown, table
from hyla.evals.long_context.run import Answered, LongContextRequest, LongContexts
from hyla.evals.long_context.source import source_of
from hyla.models.trunk import Model
from hyla.train.files import held, writing
from hyla.whole_files import write_whole

SHOWN = 60
"""Characters of an answer."""


def ask_all(
    name: str,
    out: Path,
    request: LongContextRequest,
    texts: Path | None,
    options: dict[str, Any],
    cost: tuple[float | None, str | None] = (None, None),
) -> None:
    """Ask, show every item, then the tables; write report.md and, where needles have depths, heat-map.png.

    cost: the price of an hour, and of which device (None: this machine). Raises ConfigError for a device without price.
    """
    check_cost(cost)
    source, place = source_of(texts), resolve(name)
    tokenizer = load_tokenizer(place)
    with loading_bar() as progress:
        engine = Engine(place, tokenizer=tokenizer, progress=progress, **options)
    try:
        price = price_of(cost, engine.model)
        with held(out):
            evals = LongContexts(out, request, engine, tokenizer, source)
            if evals.answered:
                console.print(f"{len(evals.answered)} items were answered before")
            with items_bar(lambda: engine.num_tokens) as bar:
                bar.begin(evals.num_items, len(evals.answered))
                lines = evals.run(lambda line: bar.item(_told(line)), bar.step)
            with writing(out):
                write_whole(out / "report.md", markdown(lines, price))
                has_map = heat_map(lines, out / "heat-map.png")
    finally:
        engine.close()
    show(table(lines), cost_table(lines, price))
    console.print(f"wrote {out / 'report.md'}" + (" and heat-map.png" if has_map else ""), soft_wrap=True)


def check_cost(cost: tuple[float | None, str | None]) -> None:
    """Raise ConfigError for a device that is unknown, or without a price."""
    price, device = cost
    if device is not None and price is None:
        raise ConfigError(f"--cost-device {device} needs --price, that of an hour of it")
    if device is not None:
        find_device(device)
    if price is not None:
        check_price(price)


def price_of(cost: tuple[float | None, str | None], model: Model) -> Price | None:
    """What an item costs, if anyone wants to know."""
    price, device = cost
    if price is None:
        return None
    weights = "bf16" if model.dtype == torch.bfloat16 else "fp32"
    return Price(price, model.config, None if device is None else find_device(device), weights)


def _told(line: Answered) -> str:
    depth = "" if line.depth is None else f", depth {line.depth:.0%}"
    return (
        f"{line.kind}, {line.length:,} tokens, item {line.number}{depth}: {line.score:.0%}, "
        f"{line.answer.strip()[:SHOWN]!r}"
    )
