"""A load test in the terminal: live progress, a table, a picture and a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hyla.cli.console import console
from hyla.errors import ConfigError, HylaError
from hyla.loadtest import Workload, drive, make_plan, summarize
from hyla.loadtest import driver as driving
from hyla.loadtest.client import Target
from hyla.loadtest.report import PERCENTILES
from hyla.loadtest.report import plot as draw


async def run_and_show(
    url: str,
    workload: Workload,
    plot: Path,
    *,
    model: str | None,
    api_key: str | None,
    is_chat: bool,
    ignores_eos: bool,
    timeout: float,
) -> int:
    """Run a workload against a server and show what came of it; returns the number of failed requests.

    Raises HylaError when the server cannot be reached at all, ConfigError for what cannot be asked of it.
    """
    if is_chat and workload.vocab_size is not None:
        raise ConfigError("--token-ids and --chat exclude each other: a chat is text")
    base = url.rstrip("/").removesuffix("/v1") + "/v1/"
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=timeout, limits=limits) as client:
        target = Target(client, model or await _first_model(client), is_chat=is_chat, ignores_eos=ignores_eos)
        warmup, requests = make_plan(workload)
        with _progress(len(requests)) as on_progress:
            samples = await drive(target, warmup, requests, workload, on_progress)
    summary = summarize(samples)
    _show(summary)
    draw(samples, plot, f"{target.model}: {_describe(workload)}")
    console.print(f"wrote {plot}", markup=False)
    print(json.dumps({"model": target.model, "workload": workload.model_dump(), **summary, "plot": str(plot)}))
    return summary["requests"] - summary["answered"]


def _describe(workload: Workload) -> str:
    if workload.arrival == "closed":
        return f"{workload.num_requests} requests from {workload.concurrency} clients"
    return f"{workload.num_requests} requests, {workload.arrival} arrivals, {workload.rate:g} a second"


async def _first_model(client: httpx.AsyncClient) -> str:
    try:
        response = await client.get("models")
        response.raise_for_status()
        return response.json()["data"][0]["id"]
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise HylaError(f"{client.base_url}models does not name a model: {error}") from error


@contextmanager
def _progress(total: int) -> Iterator[driving.OnProgress]:
    """A bar with the speed, the median time to the first token, and the errors so far."""
    columns = (
        TextColumn("[bold]requests"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("requests", total=total, told="")

        def show(progress: driving.Progress) -> None:
            found = summarize(progress.samples[-100:])
            first = found["first_token_seconds"]["p50"]
            told = f"{found['generated_tokens_per_second']:,.0f} tokens/s"
            told += f", first token {first:.2f} s" if first is not None else ""
            failed = sum(sample.error is not None for sample in progress.samples)
            told += f", {progress.running} running" + (f", {failed} failed" if failed else "")
            bar.update(task, completed=len(progress.samples), told=told)

        yield show


def _show(summary: dict) -> None:
    rates = Table(box=None, show_header=False)
    rates.add_row("answered", f"{summary['answered']:,} of {summary['requests']:,} in {summary['seconds']:.1f} s")
    rates.add_row("requests/s", f"{summary['requests_per_second']:.2f}")
    rates.add_row("tokens/s out", f"{summary['generated_tokens_per_second']:,.1f}")
    rates.add_row("tokens/s in", f"{summary['prompt_tokens_per_second']:,.1f}")
    rates.add_row("cached", f"{100 * summary['cached_share']:.1f}% of {summary['prompt_tokens']:,} prompt tokens")
    drafts = summary["accepted_drafts"] + summary["rejected_drafts"]
    if drafts:
        rates.add_row("drafts", f"{100 * summary['accepted_drafts'] / drafts:.1f}% of {drafts:,} were right")
    for name, count in summary["errors"].items():
        rates.add_row(f"[red]{name}[/red]", f"[red]{count:,}[/red]")
    console.print(rates)
    times = Table("milliseconds", *(f"p{percent}" for percent in PERCENTILES), "mean", box=None, header_style="bold")
    for label, key in (
        ("time to first token", "first_token_seconds"),
        ("time per token", "per_token_seconds"),
        ("between pieces", "gap_seconds"),
        ("whole request", "request_seconds"),
    ):
        times.add_row(label, *("-" if value is None else f"{1000 * value:,.1f}" for value in summary[key].values()))
    console.print(times)
    if summary["driver_late_seconds"] > 0.1:
        late = summary["driver_late_seconds"]
        console.print(f"this program was up to {late:.2f} s late: it is the bottleneck", style="yellow")
