"""`hyla serve`: models behind OpenAI's and Anthropic's HTTP APIs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import typer

from hyla.cli.flags import given_fields, takes_fields
from hyla.engine.requests.options import EngineOptions
from hyla.server.guard.limits import Limits

API_KEY_VARIABLE, ADMIN_KEY_VARIABLE = "HYLA_API_KEY", "HYLA_ADMIN_KEY"
"""Secrets may come from the environment; a flag or a file that gives them comes first."""


class LogForm(StrEnum):
    """How log lines look: for people, or one JSON object each."""

    text = "text"
    json = "json"


@takes_fields(engine=EngineOptions, limits=Limits)
def serve(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]MODEL ...", help="Folders, .gguf files, known names (hyla pull), or org/name."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the same settings; flags come first.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 for all. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one. Default: 8000.")] = None,
    model_name: Annotated[str | None, typer.Option(help="Name of the one model; default: its folder's name.")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="Jinja file that replaces the checkpoint's.")] = None,
    tool_parser: Annotated[str | None, typer.Option(help="Format of tool calls; default: from the template.")] = None,
    reasoning_parser: Annotated[str | None, typer.Option(help="Format of reasoning; default: the same.")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help=f"Key that clients must send; default: ${API_KEY_VARIABLE}, or none.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Keys, one a line, KEY or KEY group=NAME; read again when it changes.")
    ] = None,
    admin_key: Annotated[
        str | None, typer.Option(help=f"Key of the admin routes; default: ${ADMIN_KEY_VARIABLE}, or off.")
    ] = None,
    share_prefixes: Annotated[
        bool | None, typer.Option(help="All keys take up each other's cached prompts. Default: those of a group do.")
    ] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="A page's origin that may use the server.")] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name under which it may be asked, e.g. behind a proxy.")
    ] = None,
    log_format: Annotated[LogForm | None, typer.Option(help="Of the log on standard error. Default: text.")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="Where OpenTelemetry spans go, as http://HOST:4318/v1/traces; needs `otel`.")
    ] = None,
    **flags: Any,
) -> None:
    """Serve models over HTTP: chat, completions, responses, messages, embeddings."""
    from hyla.server import ServeConfig
    from hyla.server.config import read_toml

    fields = read_toml(config) if config is not None else {}
    engine, limits = given_fields(EngineOptions, flags), given_fields(Limits, flags)
    own = _given(chat_template=chat_template, tool_parser=tool_parser, reasoning_parser=reasoning_parser)
    fields["models"] = _models(fields.get("models", []), folders or [], model_name, own, engine)
    fields |= _given(host=host, port=port, key_file=key_file, cors_origins=cors_origin, api_keys=api_key)
    fields |= _given(allowed_hosts=allowed_host, share_prefixes=share_prefixes)
    fields |= _given(admin_keys=[admin_key] if admin_key else None)
    for name, variable in (("api_keys", API_KEY_VARIABLE), ("admin_keys", ADMIN_KEY_VARIABLE)):
        if name not in fields and os.environ.get(variable):
            fields[name] = [os.environ[variable]]
    fields |= _given(log_format=log_format and log_format.value, otlp_endpoint=otlp_endpoint)
    fields["limits"] = _merged(fields.get("limits", {}), limits)
    run(ServeConfig(**fields))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _models(of_file: Any, folders: list[str], name: str | None, own: dict, engine: dict) -> Any:
    """The file's models and the named folders, with the flags on every one of them."""
    from hyla.errors import ConfigError

    if not isinstance(of_file, list) or not all(isinstance(model, dict) for model in of_file):
        return of_file  # the config says what is wrong
    models = [*of_file, *map(_model, folders)]
    if not models:
        raise ConfigError("there is nothing to serve; name a model folder, or models in --config")
    if name is not None:
        if len(models) > 1:
            raise ConfigError(f"--model-name {name!r} names one model and there are {len(models)}; write NAME=MODEL")
        models[0]["name"] = name
    return [{**model, **own, "engine": _merged(model.get("engine", {}), engine)} for model in models]


def _merged(of_file: Any, flags: dict[str, Any]) -> Any:
    """A table of the file with flags over it; what is no table stays, since the config says what is wrong."""
    return {**of_file, **flags} if isinstance(of_file, dict) else of_file


def _model(argument: str) -> dict[str, Any]:
    from hyla.checkpoints import open_checkpoint

    name, found, folder = argument.partition("=")
    if found and not Path(argument).exists():
        return {"name": name, "folder": folder}
    return {"name": open_checkpoint(argument).name, "folder": argument}


def require_free_port(host: str, port: int) -> None:
    """Raise ConfigError unless a server can listen there now: asked before the work, not after it."""
    from hyla.server.listening import listen

    listen(host, port).close()


def run(config) -> None:
    """Load the models of a `ServeConfig` and serve them until interrupted."""
    from hyla.cli.console import console
    from hyla.server import KeyRing, create_app
    from hyla.server import serve as serve_app
    from hyla.server.watch import logs
    from hyla.server.watch.traces import Traces

    require_free_port(config.host, config.port)
    logs.configure(config.log_format)
    traces = Traces(config.otlp_endpoint) if config.otlp_endpoint is not None else None
    keys = KeyRing(config.api_keys, config.key_file, config.admin_keys, config.share_prefixes)
    models = [_load(model, config) for model in config.models]
    names = ", ".join(model.name for model in models)
    try:
        serve_app(
            create_app(
                models,
                limits=config.limits,
                keys=keys,
                cors_origins=config.cors_origins,
                allowed_hosts=config.checked_hosts,
                traces=traces,
            ),
            host=config.host,
            port=config.port,
            ready=lambda url: console.print(
                f"serving {names} at {url} (OpenAI API under {url}/v1); Ctrl-C stops it", soft_wrap=True
            ),
        )
    finally:
        if traces is not None:
            traces.close()


def _load(model, config):
    """One model of a `ServeConfig`, with its engine's process running and ready."""
    from hyla.checkpoints import open_checkpoint, resolve
    from hyla.cli.console import loading_bar
    from hyla.engine import EngineProcess, Launch
    from hyla.errors import HylaError
    from hyla.server import served_model
    from hyla.server.watch import logs

    folder = resolve(model.folder, model.engine.revision)
    launch = Launch(
        str(folder),
        model.engine.model_dump(exclude_unset=True, exclude={"revision"}),
        max_requests=config.limits.max_requests,
        silence_seconds=config.limits.engine_silence_seconds,
        stop_seconds=config.limits.engine_stop_seconds,
        prepare=partial(logs.configure, config.log_format),
    )
    give_up = Event()
    with ThreadPoolExecutor(1) as pool, loading_bar() as progress:
        reading = pool.submit(_read_beside, open_checkpoint(folder), model)
        reading.add_done_callback(lambda done: give_up.set() if done.exception() is not None else None)
        try:
            worker = EngineProcess(launch, progress=progress, give_up=give_up)
        except HylaError:
            reading.result()  # its error says more than that the engine was given up
            raise
    try:
        found = reading.result()
    except BaseException:
        worker.stop()
        raise
    return served_model(
        worker, model.name, tool_parser=model.tool_parser, reasoning_parser=model.reasoning_parser, **found
    )


def _read_beside(checkpoint, model) -> dict[str, Any]:
    """What the server itself needs of a checkpoint, as `served_model` takes it, read while the engine is made.

    Raises CheckpointError and ConfigError.
    """
    from hyla.adapters import tokenizer_beside
    from hyla.checkpoints.names import find_known
    from hyla.errors import ConfigError
    from hyla.server import create_app  # noqa: F401 (it takes a while to load, too)
    from hyla.server.cards import served_card
    from hyla.server.served import use_template

    template = None
    if model.chat_template is not None:
        try:
            template = model.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"cannot read the chat template {model.chat_template}: {error}") from error
    tokenizer = tokenizer_beside(checkpoint, model.engine.adapter)
    if tokenizer is not None:
        use_template(tokenizer, template)
    return {
        "tokenizer": tokenizer,
        "model_type": checkpoint.config().published.get("model_type"),
        "card": served_card(checkpoint, find_known(model.folder)),
    }


def start_server(models: Sequence[tuple[str, str | Path]], *, host: str, port: int, device: str) -> None:
    """Serve models, each as (name, folder), with the defaults, on a device as PyTorch names it."""
    from hyla.server import ServeConfig, ServedModelConfig

    served = [ServedModelConfig(name=name, folder=str(folder), engine={"device": device}) for name, folder in models]
    run(ServeConfig(models=served, host=host, port=port))
