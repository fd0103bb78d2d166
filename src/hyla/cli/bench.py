"""`hyla bench serve URL`: load on any OpenAI server, measured."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

API_KEY_VARIABLE = "HYLA_API_KEY"

bench = typer.Typer(name="bench", help="Measure a running server.", no_args_is_help=True)


class Arrival(StrEnum):
    """How requests arrive."""

    closed = "closed"
    poisson = "poisson"
    constant = "constant"


class Spread(StrEnum):
    """How lengths are distributed."""

    constant = "constant"
    uniform = "uniform"
    exponential = "exponential"
    lognormal = "lognormal"


@bench.callback()
def describe() -> None:
    """Measure a running server."""


@bench.command()
def serve(
    url: Annotated[str, typer.Argument(help="Of any server with OpenAI's API, as http://127.0.0.1:8000.")],
    model: Annotated[str | None, typer.Option(help="Default: the server's first.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many to send.")] = 64,
    arrival: Annotated[
        Arrival, typer.Option(help="closed: --concurrency clients in a loop; poisson, constant: --rate a second.")
    ] = Arrival.closed,
    concurrency: Annotated[int, typer.Option(min=1, help="Clients of the closed loop.")] = 8,
    rate: Annotated[float, typer.Option(min=1e-6, help="Requests per second of an open arrival process.")] = 1.0,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Mean length of a prompt.")] = 256,
    prompt_spread: Annotated[Spread, typer.Option(help="Distribution of prompt lengths.")] = Spread.constant,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Mean length of an answer.")] = 64,
    answer_spread: Annotated[Spread, typer.Option(help="Distribution of answer lengths.")] = Spread.constant,
    longest: Annotated[int, typer.Option(min=1, help="Longest prompt, and longest answer.")] = 1 << 20,
    prefix_share: Annotated[float, typer.Option(min=0, max=1, help="Part of every prompt shared with others.")] = 0.0,
    prefixes: Annotated[int, typer.Option(min=1, help="How many different shared beginnings.")] = 1,
    token_ids: Annotated[
        int | None, typer.Option(min=1, metavar="VOCAB", help="Send random ids below this instead of text.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before, not counted.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Same seed: same requests at the same times.")] = 0,
    chat: Annotated[bool, typer.Option(help="Use /v1/chat/completions.")] = False,
    ignore_eos: Annotated[bool, typer.Option(help="Ask for whole answers; --no-ignore-eos: plain OpenAI only.")] = True,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a byte before a request has failed.")
    ] = 600.0,
    api_key: Annotated[str | None, typer.Option(help=f"Default: ${API_KEY_VARIABLE}.")] = None,
    plot: Annotated[Path, typer.Option(help="Picture to write.")] = Path("bench-serve.png"),
) -> None:
    """Send requests to a server and measure: throughput, time to the first token and per token, errors.

    Prints a table and, as its last line, JSON with every number; writes a picture.
    """
    import asyncio
    import os

    from hyla.cli.bench_tables import run_and_show
    from hyla.loadtest.plan import Lengths, Workload

    workload = Workload(
        num_requests=requests,
        arrival=arrival.value,
        rate=rate,
        concurrency=concurrency,
        prompt=Lengths(kind=prompt_spread.value, mean=prompt_tokens, longest=longest),
        answer=Lengths(kind=answer_spread.value, mean=answer_tokens, longest=longest),
        prefix_share=prefix_share,
        num_prefixes=prefixes,
        vocab_size=token_ids,
        num_warmup=warmup,
        seed=seed,
    )
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    options = {"model": model, "api_key": key, "is_chat": chat, "ignores_eos": ignore_eos, "timeout": timeout}
    num_errors = asyncio.run(run_and_show(url, workload, plot, **options))
    if num_errors:
        raise typer.Exit(1)
