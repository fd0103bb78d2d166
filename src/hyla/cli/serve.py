"""`hyla serve FOLDER`: the OpenAI-compatible server."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

API_KEY_VARIABLE = "HYLA_API_KEY"


class LogForm(StrEnum):
    """How log lines look: for people, or one JSON object each."""

    text = "text"
    json = "json"


def serve(
    folder: Annotated[str, typer.Argument(help="Model folder in the Hugging Face format, or org/name on its hub.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; default: as stored.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an org/name.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help=f"Key that clients must send; default: ${API_KEY_VARIABLE}, or none.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Name in /v1/models; default: the folder's name.")] = None,
    log_format: Annotated[LogForm, typer.Option(help="Of the log on standard error.")] = LogForm.text,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="Where OpenTelemetry spans go, as http://HOST:4318/v1/traces; needs hyla[otel].")
    ] = None,
) -> None:
    """Serve a model folder over HTTP: completions, chat, streaming, log-probabilities."""
    from hyla.server import logs
    from hyla.server.traces import Traces

    require_free_port(host, port)
    key = api_key or os.environ.get(API_KEY_VARIABLE)
    traces = Traces(otlp_endpoint) if otlp_endpoint is not None else None
    logs.configure(log_format.value)
    fields = {"dtype": dtype, "revision": revision, "api_key": key, "model_name": model_name, "traces": traces}
    start_server(folder, host=host, port=port, **fields)
    if traces is not None:
        traces.close()


def require_free_port(host: str, port: int) -> None:
    """Raise ConfigError unless a server can listen there now: asked before the work, not after it."""
    from hyla.server.serve import listen

    listen(host, port).close()


def start_server(
    folder: str | Path,
    *,
    host: str,
    port: int,
    dtype: str | None = None,
    revision: str | None = None,
    api_key: str | None = None,
    model_name: str | None = None,
    traces=None,
) -> None:
    """Load the folder and serve it until interrupted. traces: `server.traces.Traces`, or None."""
    import hyla
    from hyla.cli.console import console, loading_bar
    from hyla.server import serve as serve_engine

    with loading_bar() as progress:
        engine = hyla.Engine(folder, dtype=dtype, revision=revision, progress=progress)
    name = model_name or Path(folder).absolute().name
    serve_engine(
        engine,
        model_name=name,
        host=host,
        port=port,
        api_key=api_key,
        traces=traces,
        ready=lambda url: console.print(f"serving {name} at {url} (OpenAI API under {url}/v1); Ctrl-C stops it"),
    )
