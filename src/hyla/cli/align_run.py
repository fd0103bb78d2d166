"""A measurement of `hyla align` from its flags, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hyla.align.config import AlignConfig
from hyla.align.others import check_same_vocabulary, read_answers
from hyla.align.prompts import read_prompts, read_tokens
from hyla.align.report import PRICES, by_bucket, layers, markdown, plain, prices, verdict
from hyla.align.run import Alignment, Alignments, aligned
from hyla.align.ways import OtherEngine, OtherModel, way_of
from hyla.checkpoints import Tokenizer, load_model, load_tokenizer, read_config, resolve
from hyla.errors import ConfigError
from hyla.json_files import write_json
from hyla.ops import backends

COLUMNS = ((0, 1, 2, 3, 4, 5, 6), (0, 7, 8, 9, 10))
"""Of `PRICES`, in two tables that fit a terminal."""


def measured(
    name: str,
    config: AlignConfig,
    *,
    data: Sequence[Path],
    text: Path | None,
    length: int,
    ways: Sequence[str],
    against: str | None,
    dtype: str | None,
    say: Callable[[str], None],
) -> tuple[Alignments, dict[str, Any]]:
    """All reports, and what they are about."""
    if text is not None and data:
        raise ConfigError("--text is read, --data is answered: give one of them")
    place = resolve(name)
    tokenizer, chosen = load_tokenizer(place), [way_of(way, config.seed) for way in ways]
    is_file = against is not None and against.endswith(".jsonl")
    alignment = Alignment(
        lambda: load_model(place, dtype=dtype),
        tokenizer,
        config,
        [] if text is not None or is_file else read_prompts(data, tokenizer, config.prompts),
        None if text is None else read_tokens([text], tokenizer, length),
        say,
    )
    model = alignment.trainer
    about = {
        "model": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "arithmetic": backends.on(model.device),
        "threads": torch.get_num_threads(),
        "config": config.model_dump(),
        "text": None if text is None else str(text),
        "compared_with": against,
    }
    if is_file:
        if chosen or text is not None:
            raise ConfigError(f"--against {against} holds answers already: leave --way, --text and --state-dtype out")
        answers = read_answers(Path(against), model.config.vocab_size, model.config.max_len)
        return Alignments(None, [], {}, alignment.scored(OtherEngine(against), answers)), about
    if against is None:
        return aligned(alignment, chosen), about
    other = _other(against, tokenizer, model.config.vocab_size)
    found = aligned(alignment, chosen)
    return replace(found, against=alignment.priced(OtherModel(against), lambda: load_model(other, dtype=dtype))), about


def _other(name: str, tokenizer: Tokenizer, vocab_size: int) -> Path:
    """Where another model is. Raises ConfigError for one of another vocabulary, before anything is computed."""
    place = resolve(name)
    sizes = vocab_size, read_config(place).config.vocab_size
    check_same_vocabulary(name, tokenizer, load_tokenizer(place), sizes)
    return place


def title_of(about: dict[str, Any]) -> str:
    return f"{about['model']} in {about['dtype']}, computed by {about['arithmetic']}"


def write(folder: Path, found: Alignments, about: dict[str, Any]) -> None:
    """report.json and report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", plain(found, about))
    (folder / "report.md").write_text(markdown(found, title_of(about)), encoding="utf-8")


def show(found: Alignments, about: dict[str, Any], *, as_json: bool) -> None:
    from hyla.cli.console import console

    if as_json:
        print(json.dumps(plain(found, about)))
        return
    console.print(title_of(about), soft_wrap=True)
    if found.exact is not None:
        for line in verdict(found.exact):
            console.print(line, soft_wrap=True)
    if found.ways or found.against is not None:
        for columns in COLUMNS:
            _table([PRICES[place] for place in columns], [[row[place] for place in columns] for row in prices(found)])
    _table(*by_bucket(found))
    shown = found.exact if found.exact is not None and not found.exact.is_zero else found.against
    if shown is not None and shown.gaps:
        _table(*layers(shown))
    for name, reason in found.skipped.items():
        console.print(f"not measured: {name}: {reason}", soft_wrap=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    from hyla.cli.console import console

    table = Table()
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
