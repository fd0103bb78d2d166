"""Every command of the README is checked; the quick ones run. Its links: tests/test_pages.py."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner
from tiny_model import save_tiny_folder

from hyla.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = typer.main.get_command(app)
MODEL = "runs/quickstart/model"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
HYLA = [line for line in COMMANDS if line.startswith("hyla ")]


def test_every_command_is_make_or_hyla():
    assert {line.split()[0] for line in COMMANDS} == {"make", "hyla"}
    assert len(HYLA) >= len(COMMAND.commands)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_every_make_target_exists(line):
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", HYLA)
def test_every_hyla_command_parses(line):
    verb, *arguments = shlex.split(line)[1:]
    COMMAND.commands[verb].make_context(verb, arguments)


QUICK = ("generate", "inspect", "chat", "cost")
RUN_HERE = [line for line in HYLA if line.split()[1] in QUICK and "http://" not in line]
"""Those that need a server run in tests/test_first_server.py."""


def test_every_quick_verb_is_shown():
    assert {line.split()[1] for line in HYLA}.issuperset(QUICK)


@pytest.mark.parametrize("line", RUN_HERE)
def test_quick_commands_run(line, tmp_path):
    folder = save_tiny_folder(tmp_path / "model")
    arguments = [str(folder) if part == MODEL else part for part in shlex.split(line)[1:]]
    result = CliRunner().invoke(COMMAND, arguments, input="hello\n\n", catch_exceptions=False)
    assert result.exit_code == 0 and result.output.strip()


def test_the_python_example_runs(tmp_path, capsys):
    folder = save_tiny_folder(tmp_path / "model")
    (code,) = blocks("python")
    names = {}
    exec(compile(code.replace(MODEL, str(folder)), "README.md", "exec"), names)
    assert names["logits"].shape == (3, names["model"].config.vocab_size)
    assert len(names["completion"].token_ids) == 20 or names["completion"].finish_reason == "stop"


def test_every_folder_of_the_tree_is_there():
    (tree,) = blocks("text")
    for name in re.findall(r"^  (\w+)/", tree, re.MULTILINE):
        assert (ROOT / "src" / "hyla" / name).is_dir(), name
    for name in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (ROOT / name).is_dir(), name


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"MEASURED|TODO|TBD|XXX", README)
