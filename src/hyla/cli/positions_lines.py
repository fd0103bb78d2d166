"""Bits per byte by position, from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyla.checkpoints import load_tokenizer, resolve
from hyla.cli.console import console, items_bar, loading_bar, show
from hyla.engine import Engine
from hyla.errors import ConfigError
from hyla.evals.positions.pieces import Piece
from hyla.evals.positions.report import markdown, plot, table
from hyla.evals.positions.run import Positions, PositionsRequest, ScoredPiece, chosen_pieces
from hyla.train.corpus import Document
from hyla.train.files import held, writing
from hyla.whole_files import write_whole


def score_all(
    names: Sequence[str], out: Path, request: PositionsRequest, documents: Sequence[Document], options: dict[str, Any]
) -> None:
    """Score with one model after the other, each in a folder of its own, then the table; write report.md and
    positions.png. Raises ConfigError for models that put the texts into other tokens: a position is another place then.
    """
    labels = {folder_name(name): name for name in names}
    if len(labels) < len(names):
        raise ConfigError(f"{', '.join(names)}: two of these have one name; name each model once")
    found: dict[str, list[ScoredPiece]] = {}
    first: list[Piece] | None = None
    with held(out):
        for label, name in labels.items():
            place = resolve(name)
            tokenizer = load_tokenizer(place)
            chosen = chosen_pieces(documents, tokenizer, request)
            first = first or chosen
            if [piece.ids for piece in chosen] != [piece.ids for piece in first]:
                raise ConfigError(f"{name} puts these texts into other tokens than {names[0]}; score them one by one")
            found[name] = _score(place, out / label, request, chosen, {**options, "tokenizer": tokenizer})
        with writing(out):
            write_whole(out / "report.md", markdown(found, request.length))
            plot(found, out / "positions.png")
    show(table(found))
    console.print(f"wrote {out / 'report.md'} and positions.png", soft_wrap=True)


def _score(place: Path, folder: Path, request: PositionsRequest, chosen: Sequence[Piece], options: dict[str, Any]):
    with loading_bar() as progress:
        engine = Engine(place, progress=progress, prefix_cache=False, **options)  # every row of a piece is needed
    try:
        evals = Positions(folder, request, engine, chosen)
        with items_bar(lambda: engine.num_tokens) as bar:
            bar.begin(len(chosen), len(evals.scored))
            return evals.run(lambda line: bar.item(_told(line)), bar.step)
    finally:
        engine.close()


def folder_name(model: str) -> str:
    """A model's folder of results.

    >>> folder_name("runs/mine/model"), folder_name("org/name-1.5")
    ('runs-mine-model', 'org-name-1.5')
    """
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"


def _told(line: ScoredPiece) -> str:
    mean = sum(line.bits.values()) / max(sum(line.bytes.values()), 1)
    return f"{line.document}, piece {line.number}: {mean:.4f} bits a byte"
