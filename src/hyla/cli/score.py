"""`hyla score MODEL FILES`: how well a model predicts texts, as bits per byte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyla.cli.model_flags import Device, Dtype, ModelName, Revision, Threads

NAMED_SKIPPED = 5
"""So many files that were left out are named in the line about them; --json has all."""


def score(
    model: ModelName,
    files: Annotated[list[Path], typer.Argument(help="Text files, or folders, read with all their subfolders.")],
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a window. Default: 2,048, or what the model has.")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens of a window that the one before has scored. Default: a quarter of it."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read so many bytes in all; the last text is cut.")] = None,
    dtype: Dtype = None,
    revision: Revision = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Bits per byte of texts under a model; fewer is better. Files that are no text are left out, and named."""
    import json
    import sys

    from hyla.engine.waiting_threads import load_torch

    load_torch()
    from hyla.engine.threads import default_threads, use_threads
    from hyla.terminal_text import escaped
    from hyla.train.score_texts import read_texts

    texts = read_texts(files, limit)
    if texts.skipped and not as_json:
        print(escaped(_left_out(texts.skipped), keep=""), file=sys.stderr)
    for note in use_threads(threads or default_threads()):
        print(note, file=sys.stderr)
    report = _score(model, texts, context, overlap, dtype=dtype, revision=revision, device=device)
    if as_json:
        print(json.dumps(report))
    else:
        _show(report)


def _left_out(skipped) -> str:
    named = ", ".join(f"{one.name} ({one.reason})" for one in skipped[:NAMED_SKIPPED])
    more = f", and {len(skipped) - NAMED_SKIPPED} more" if len(skipped) > NAMED_SKIPPED else ""
    return f"left out: {named}{more}"


def _score(
    name: str, texts, context: int | None, overlap: int | None, *, dtype: str | None, revision: str | None, device: str
) -> dict:
    """Everything as plain values."""
    import time

    from hyla.checkpoints import load_model, load_tokenizer, resolve
    from hyla.cli.console import loading_bar, scoring_bar
    from hyla.ops import backends
    from hyla.train.scoring import Windows
    from hyla.train.scoring import score as score_texts

    place = resolve(name, revision)
    tokenizer = load_tokenizer(place)
    with loading_bar() as loading:
        model = load_model(place, dtype=dtype, device=device, pack=True, progress=loading).eval()
    windows = Windows.of(model.config.max_len, context, overlap)
    start = time.perf_counter()
    with scoring_bar(sum(len(document.data) for document in texts.documents)) as progress:
        scored = list(score_texts(model, tokenizer, texts.documents, windows, progress=progress))
    bos = tokenizer.special.get("bos_token")
    return {
        "model": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "arithmetic": backends.on(model.device),
        "context": windows.context,
        "overlap": windows.overlap,
        "first_token": "not counted" if bos is None else f"after {bos}",
        "files": [{"file": text.name, **_figures(text.num_bytes, text.num_tokens, text.bits)} for text in scored],
        "total": _total(scored),
        "skipped": [{"file": one.name, "reason": one.reason} for one in texts.skipped],
        "seconds": round(time.perf_counter() - start, 3),
    }


def _figures(num_bytes: int, num_tokens: int, bits: float) -> dict:
    """One row. A text of a single token, without a token before it, has no figures."""
    per_byte = {"bits_per_byte": None, "tokens_per_byte": None}
    if num_bytes and num_tokens:
        per_byte = {"bits_per_byte": bits / num_bytes, "tokens_per_byte": num_tokens / num_bytes}
    return {"bytes": num_bytes, "tokens": num_tokens, "bits": bits, **per_byte}


def _total(scored: list) -> dict:
    import math

    sizes = sum(text.num_bytes for text in scored), sum(text.num_tokens for text in scored)
    return _figures(*sizes, math.fsum(text.bits for text in scored))


def _show(report: dict) -> None:
    from rich.table import Table

    from hyla.cli.console import console

    table = Table()
    table.add_column("file", overflow="fold")
    for name in ("bytes", "tokens", "bits/byte", "tokens/byte"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report["files"]:
        table.add_row(row["file"], *_cells(row))
    if len(report["files"]) > 1:
        table.add_section()
        table.add_row(f"all {len(report['files'])}", *_cells(report["total"]), style="bold")
    console.print(table)
    speed = report["total"]["tokens"] / max(report["seconds"], 1e-9)
    console.print(
        f"{report['model']} in {report['dtype']} on {report['device']}, {speed:,.0f} tokens/s; windows of "
        f"{report['context']:,} tokens, of which {report['overlap']:,} are read again; each text's first token is "
        f"{_first(report['first_token'])}",
        markup=False,
        soft_wrap=True,
    )


def _first(told: str) -> str:
    return told if told == "not counted" else f"predicted {told}"


def _cells(row: dict) -> list[str]:
    ratios = [row["bits_per_byte"], row["tokens_per_byte"]]
    return [f"{row['bytes']:,}", f"{row['tokens']:,}", *("-" if ratio is None else f"{ratio:.4f}" for ratio in ratios)]
