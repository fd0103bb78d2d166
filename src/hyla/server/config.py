"""`hyla serve` as data: a TOML file, or the flags."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from hyla.engine.requests.options import EngineOptions
from hyla.errors import ConfigError
from hyla.models.config import Config
from hyla.server.guard.limits import Limits
from hyla.server.guard.origins import is_loopback
from hyla.server.watch.logs import LogFormat

Name = Annotated[str, Field(min_length=1, max_length=256)]


class ServedModelConfig(Config):
    """A model that a server offers, and how its answers are read."""

    name: Name
    """What requests call it."""
    folder: Annotated[str, Field(min_length=1)]
    """A model folder, a GGUF file, a known name (`hyla pull`), or org/name on the Hugging Face hub."""
    chat_template: Path | None = None
    """A Jinja file that replaces the checkpoint's chat template."""
    tool_parser: str | None = None
    """How its tool calls look ("none": no tools); None: found in the chat template."""
    reasoning_parser: str | None = None
    """How its reasoning looks ("none": all is text); None: found in the chat template."""
    engine: EngineOptions = EngineOptions()
    """How its engine is set up; checked here, before any process starts."""


class ServeConfig(Config):
    """A whole server: its models, where it listens, who may use it."""

    models: Annotated[tuple[ServedModelConfig, ...], Field(min_length=1)]
    log_format: LogFormat = "text"
    """Form of the log on standard error; "json": one object a line."""
    otlp_endpoint: str | None = None
    """Where OpenTelemetry spans go, as http://HOST:4318/v1/traces; needs the extra `otel`. None: nowhere."""
    host: str = "127.0.0.1"
    """Address to listen on; "0.0.0.0" for all of this machine's."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0: any free one."""
    api_keys: tuple[Name, ...] = ()
    """Keys of clients. Prefer `key_file`: it can be changed while the server runs."""
    key_file: Path | None = None
    """More keys, one a line, `KEY` or `KEY group=NAME`; read again when it changes."""
    admin_keys: tuple[Name, ...] = ()
    """Keys of the admin routes, which are off without one."""
    share_prefixes: bool = False
    """Whether all keys take up each other's cached prompts. Otherwise only the keys of one group do (`KEY group=NAME`
    in the key file), since who is answered sooner learns what others have asked."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may use the server from a browser."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, without ports, under which the server may be asked. On a loopback address others than this machine's own
    are refused, so that no foreign name can be made to lead here; elsewhere they are only if names are given."""
    limits: Limits = Limits()
    """Bounds on requests."""

    @property
    def checked_hosts(self) -> tuple[str, ...] | None:
        """`allowed_hosts` where they are checked; None: every name is taken."""
        return self.allowed_hosts if self.allowed_hosts or is_loopback(self.host) else None

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models):
        names = [model.name for model in models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two models are called {twice!r}; give each its own name")
        return models


def read_toml(file: Path) -> dict[str, Any]:
    """The fields of a configuration file. Paths in it are relative to it. Raises ConfigError."""
    try:
        fields = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # also thousands of digits, or of nested arrays
        raise ConfigError(f"cannot read {file}: {error}") from error
    if isinstance(fields.get("key_file"), str):
        fields["key_file"] = file.parent / fields["key_file"]
    for model in fields.get("models", []) if isinstance(fields.get("models"), list) else []:
        if isinstance(model, dict):
            for key in ("chat_template", "folder"):
                given = model.get(key)
                if isinstance(given, str) and (key == "chat_template" or (file.parent / given).exists()):
                    model[key] = str(file.parent / given)
    return fields
