"""docs/serving.md says what is there."""

import re
import tomllib
from pathlib import Path

from hyla.answers import registry, thinking
from hyla.server import ServeConfig
from hyla.server.openapi import BODIES
from hyla.server.schemas.chat import ChatRequest
from hyla.server.schemas.completions import CompletionRequest

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_every_route_and_parser_is_named():
    routes = set(re.findall(r"/[a-z0-9_/]+", PAGE))
    assert {path for path in BODIES if path not in routes} == set()
    names = {form.name for form in (*registry.TOOL_FORMATS, *thinking.FORMATS)}
    assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_every_extension_named_is_a_field():
    part, *_ = PAGE[PAGE.index("These go beyond") :].split("\n\n")
    known = set(ChatRequest.model_fields) | set(CompletionRequest.model_fields)
    assert set(re.findall(r"`([a-z_]+)`", part)) <= known


def test_the_configuration_file_is_one():
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    config = ServeConfig(**tomllib.loads(text))
    assert config.limits.max_requests_per_key == 64 and config.models[0].engine.max_num_sequences == 64


def test_the_commands_are_the_verb_s(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from hyla.cli import serve
    from hyla.cli.app import app

    seen = []
    monkeypatch.setattr(serve, "run", seen.append)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    (tmp_path / "serve.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```\n(hyla serve.*?)```", PAGE, re.S)
    commands = [line.split("#")[0].split()[1:] for line in block.strip().splitlines()]
    for command in commands:
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0, command
    assert [[model.name for model in config.models] for config in seen] == [["model"], ["small", "big"], ["small"]]
