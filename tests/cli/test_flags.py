"""`hyla serve` has one flag for each option of its engines and each of its limits."""

from typing import Annotated

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from hyla.cli import serve
from hyla.cli.app import app
from hyla.cli.flags import field_type, takes_fields
from hyla.engine import EngineOptions
from hyla.models.config import Config
from hyla.server import Limits

CONFIGS = [EngineOptions, Limits]
OTHER_VALUES = {"str": "other", "int": "1025", "float": "2.5"}
"""By type: a value that no field has by default and every field allows, as text."""

BOUNDED = {"max_draft_tokens": 3, "most_urgent_priority": -5, "engine_silence_seconds": 7.5}
"""Of fields that do not allow those."""


def flags_of(verb):
    command = typer.main.get_command(app).commands[verb]
    return {parameter.name: parameter for parameter in command.params}


def other_value(name, field):
    kind = field_type(field).kind
    if kind is bool:
        return [f"--{'no-' if field.default else ''}{name}"], not field.default
    if name in BOUNDED:
        return [f"--{name}", str(BOUNDED[name])], BOUNDED[name]
    if hasattr(kind, "__args__"):
        value = next(choice for choice in kind.__args__ if choice != field.default)
        return [f"--{name}", value], value
    text = OTHER_VALUES[kind.__name__]
    return [f"--{name}", text], kind(text)


@pytest.mark.parametrize("config", CONFIGS)
def test_each_field_has_a_flag_with_its_docstring(config):
    flags = flags_of("serve")
    for name, field in config.model_fields.items():
        assert field.description, name
        first_words = field.description.split("`")[0].split()[:4]
        assert flags[name].help.split()[: len(first_words)] == first_words


@pytest.mark.parametrize("config", CONFIGS)
def test_each_flag_sets_its_field_and_no_other(config, monkeypatch):
    seen = []
    monkeypatch.setattr(serve, "run", seen.append)
    for name, field in config.model_fields.items():
        words, value = other_value(name, field)
        done = CliRunner().invoke(app, ["serve", "folder", words[0].replace("_", "-"), *words[1:]])
        assert done.exit_code == 0, done.output
        found = seen[-1].models[0].engine if config is EngineOptions else seen[-1].limits
        assert found == config(**{name: value}) != config(), name


def test_ranges_and_choices_are_checked_before_anything_starts():
    for words, said in (
        (["--max-draft-tokens", "33"], "max-draft-tokens"),
        (["--acceptance", "often"], "acceptance"),
        (["--memory", "0"], "memory"),
    ):
        done = CliRunner().invoke(app, ["serve", "folder", *words])
        assert done.exit_code == 2 and said in done.output


def test_a_name_that_stands_twice_is_refused():
    class Twice(Config):
        host: Annotated[str, Field(min_length=1)] = "x"

    def verb(host: str = "y", **flags): ...

    with pytest.raises(ValueError, match="host"):
        takes_fields(more=Twice)(verb)
