"""`hyla data build` and `hyla data inspect`: token stores for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN_DAMAGE = 10
"""Damaged records that are printed."""

data = typer.Typer(name="data", help="Make token stores for training.", no_args_is_help=True)


@data.callback()
def describe() -> None:
    """Make token stores for training."""


@data.command()
def build(
    inputs: Annotated[list[Path], typer.Argument(help="Files and folders: text, .jsonl / .ndjson, .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder of the store.")],
    tokenizer: Annotated[str, typer.Option(help="Model folder, .gguf file, known name, or org/name.")],
    chat: Annotated[bool, typer.Option(help="Read conversations; the answers are what is learnt.")] = False,
    text_field: Annotated[str, typer.Option(help="Key or column that holds a document.")] = "text",
    messages_field: Annotated[str, typer.Option(help="Key or column that holds a conversation.")] = "messages",
    tools_field: Annotated[str, typer.Option(help="Key or column that holds a conversation's tools.")] = "tools",
    heldout_share: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of documents kept apart.")] = 0.0,
    stop_on_damaged: Annotated[bool, typer.Option(help="End at the first damaged record.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that encode; default: one a core.")] = None,
) -> None:
    """Encode text or conversations once. Called again after a kill, it goes on; the same input gives the same bytes."""
    import os

    from hyla.checkpoints import resolve
    from hyla.cli.console import console
    from hyla.data.build import BuildRequest, Progress, build_store
    from hyla.train.files import held

    request = BuildRequest(
        inputs=tuple(str(path.absolute()) for path in inputs),
        tokenizer=str(resolve(tokenizer, with_weights=False).absolute()),
        text_field=text_field,
        messages_field=messages_field,
        tools_field=tools_field,
        is_chat=chat,
        heldout_share=heldout_share,
        on_damaged="stop" if stop_on_damaged else "skip",
    )

    def tell(progress: Progress) -> None:
        if console.is_terminal or progress.pieces == progress.of:
            done = f"{progress.pieces} of {progress.of} pieces, {progress.tokens:,} tokens"
            console.print(f"{done}, {progress.damaged} damaged records")

    with held(out):
        store = build_store(out, request, workers=workers or os.cpu_count() or 1, on_progress=tell)
    _print(store)


@data.command()
def inspect(folder: Annotated[Path, typer.Argument(help="Folder of a store.")]) -> None:
    """What a store holds, and which records were left out."""
    from hyla.data.store import open_store

    _print(open_store(folder))


def _print(store) -> None:
    from hyla.cli.console import console

    record = store.record
    for split, counts in record["splits"].items():
        console.print(f"{split}: {counts['tokens']:,} tokens in {counts['documents']:,} documents")
    kind = "conversations" if record["is_chat"] else "texts"
    console.print(f"{kind}, vocabulary {record['vocab_size']:,}, digest {record['digest']}")
    if record["num_damaged"]:
        console.print(f"{record['num_damaged']:,} damaged records were left out:")
        for one in record["damaged"][:SHOWN_DAMAGE]:
            console.print(f"  {one['place']}: {one['reason']}", soft_wrap=True)
        hidden = record["num_damaged"] - SHOWN_DAMAGE
        if hidden > 0:
            console.print(f"  and {hidden:,} more; {store.folder / 'store.json'} names the first")
