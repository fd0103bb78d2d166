"""A measurement of `hyla align` from its flags, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hyla.align.config import AlignConfig
from hyla.align.others import check_same_vocabulary, read_answers
from hyla.align.prompts import read_prompts, read_tokens
from hyla.align.report import PRICES, by_bucket, layers, markdown, plain, prices, verdict
from hyla.align.run import Alignment, Alignments, aligned
from hyla.align.ways import OtherEngine, OtherModel, Way, way_of
from hyla.checkpoints import load_model, load_tokenizer, read_config, resolve
from hyla.errors import ConfigError
from hyla.json_files import write_json
from hyla.ops import backends

COLUMNS = ((0, 1, 2, 3, 4, 5, 6), (0, 7, 8, 9, 10))
"""Of `PRICES`, in two tables that fit a terminal."""


@dataclass(frozen=True)
class Asked:
    """What the flags of the verb ask for, beside `AlignConfig`."""

    model: str
    data: Sequence[Path] = ()
    text: Path | None = None
    length: int = 32768
    ways: Sequence[str] = ()
    against: str | None = None
    dtype: str | None = None

    def __post_init__(self):
        if self.text is not None and self.data:
            raise ConfigError("--text is read, --data is answered: give one of them")
        if self.answers is not None and (self.ways or self.text is not None or self.data):
            raise ConfigError(f"--against {self.against} holds answers already: leave --way, --data and --text out")

    @property
    def answers(self) -> Path | None:
        """The file of another engine's answers, if that is what is compared with."""
        return Path(self.against) if self.against is not None and self.against.endswith(".jsonl") else None


def measured(asked: Asked, config: AlignConfig, say: Callable[[str], None]) -> tuple[Alignments, dict[str, Any]]:
    """All reports, and what they are about."""
    place = resolve(asked.model)
    tokenizer, ways = load_tokenizer(place), [way_of(name, config.seed) for name in asked.ways]
    is_answered = asked.text is None and asked.answers is None
    alignment = Alignment(
        lambda: load_model(place, dtype=asked.dtype),
        tokenizer,
        config,
        read_prompts(asked.data, tokenizer, config.prompts) if is_answered else (),
        None if asked.text is None else read_tokens([asked.text], tokenizer, asked.length),
        say,
    )
    model = alignment.trainer
    about = {
        "model": asked.model,
        "dtype": str(model.dtype).removeprefix("torch."),
        "arithmetic": backends.on(model.device),
        "threads": torch.get_num_threads(),
        "config": config.model_dump(),
        "text": None if asked.text is None else str(asked.text),
        "compared_with": asked.against,
    }
    if asked.answers is not None:
        answers = read_answers(asked.answers, model.config.vocab_size, model.config.max_len)
        report = alignment.scored(OtherEngine(str(asked.answers)), answers)
        return Alignments(None, [], {}, report), about
    if asked.against is None:
        return aligned(alignment, ways), about
    return _with_other(alignment, ways, asked.against, asked.dtype), about


def _with_other(alignment: Alignment, ways: Sequence[Way], name: str, dtype: str | None) -> Alignments:
    """All reports, and that of another model. Raises ConfigError for one of another vocabulary, at once."""
    place = resolve(name)
    sizes = alignment.trainer.config.vocab_size, read_config(place).config.vocab_size
    assert alignment.tokenizer is not None
    check_same_vocabulary(name, alignment.tokenizer, load_tokenizer(place), sizes)
    found = aligned(alignment, ways)
    return replace(found, against=alignment.priced(OtherModel(name), lambda: load_model(place, dtype=dtype)))


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
    for report in found.ways:
        for line in report.failed:
            console.print(f"{report.name}: failed: {line}", soft_wrap=True)
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
