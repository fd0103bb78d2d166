"""`hyla align MODEL`: the engine's log-probabilities beside the trainer's, and what every way out of equality costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hyla.align.config import AlignConfig
from hyla.cli.flags import given_fields, takes_fields
from hyla.cli.model_flags import Dtype, ModelName

STATE_WAYS = {"bf16": "state-bf16", "fp16": "state-fp16"}


@takes_fields(sampling=AlignConfig)
def align(
    model: ModelName,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="One .jsonl file of tasks with prompts, or text files and folders. Default: prompts of ours."
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Read this long text (a file or folder) instead of answering prompts.")
    ] = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens of --text that are read.")] = 32768,
    way: Annotated[
        list[str] | None, typer.Option(help="Price this way out, too; can be repeated. docs/align.md lists them.")
    ] = None,
    all_ways: Annotated[bool, typer.Option("--all-ways", help="Price every way out.")] = False,
    state_dtype: Annotated[
        str | None, typer.Option(help="bf16 or fp16: short for --way state-bf16, state-fp16.")
    ] = None,
    stochastic_rounding: Annotated[
        bool, typer.Option("--stochastic-rounding", help="Let --state-dtype round by chance.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(help="Another model of the same vocabulary, or a .jsonl file of another engine's answers."),
    ] = None,
    dtype: Dtype = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report.json and report.md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    **flags: Any,
) -> None:
    """Zero, bit for bit, or exit status 1 and the first token that differs. Ways out are priced, never a failure."""
    import sys

    from hyla.engine.waiting_threads import load_torch

    load_torch()
    from hyla.cli.align_run import Asked, measured, show, write
    from hyla.engine.threads import default_threads, use_threads

    use_threads(default_threads())
    names = _names(way or [], all_ways, state_dtype, stochastic_rounding)
    config = AlignConfig(**given_fields(AlignConfig, flags))
    say = (lambda line: None) if as_json else (lambda line: print(line, file=sys.stderr))
    asked = Asked(model, data or (), text, length, names, against, dtype)
    found, about = measured(asked, config, say)
    if out is not None:
        write(out, found, about)
    show(found, about, as_json=as_json)
    if not found.is_zero:
        raise typer.Exit(1)


def _names(named: list[str], all_ways: bool, state_dtype: str | None, by_chance: bool) -> list[str]:
    """Of the ways to price. Raises ConfigError for what cannot be."""
    from hyla.align.ways import WAYS
    from hyla.errors import ConfigError

    if by_chance and state_dtype is None:
        raise ConfigError("--stochastic-rounding needs --state-dtype, the dtype that is rounded to")
    if state_dtype is not None and state_dtype not in STATE_WAYS:
        raise ConfigError(f"--state-dtype {state_dtype!r} is unknown; choose {' or '.join(STATE_WAYS)}")
    found = list(WAYS) if all_ways else list(named)
    if state_dtype is not None:
        found.append(STATE_WAYS[state_dtype] + ("-stochastic" if by_chance else ""))
    return list(dict.fromkeys([*found, *named]))
