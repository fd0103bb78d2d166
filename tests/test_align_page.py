"""docs/align.md: its commands parse, its example runs, its tables name every way and have the defaults."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from tiny_model import save_tiny_folder

from hyla.align.config import AlignConfig
from hyla.align.others import AnswerLine
from hyla.align.ways import WAYS
from hyla.cli.app import app

PAGE = (Path(__file__).parents[1] / "docs" / "align.md").read_text(encoding="utf-8")
VERB = typer.main.get_command(app).commands["align"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if "align" in line])
def test_every_command_of_the_page_parses(line):
    program, verb, *arguments = shlex.split(line)
    assert (program, verb) == ("hyla", "align")
    VERB.make_context(verb, arguments)


def test_every_way_is_in_the_table_of_ways():
    rows = re.findall(r"^\| (`.*?) \|.*\| (?:engine|trainer) \|$", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row)} == set(WAYS)


def test_every_option_is_in_the_table_with_its_default():
    options = {option for parameter in VERB.params for option in parameter.opts if option.startswith("--")}
    (table,) = re.findall(r"^\| option \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(--[\w-]+)`", table))
    assert options - {"--help"} == {"--greedy" if name == "--no-greedy" else name for name in named}
    defaults = AlignConfig()
    assert f"| {defaults.prompts}, {defaults.turns} |" in table and f"| {defaults.tapped} |" in table
    assert f"| {defaults.max_tokens}, {defaults.temperature}, {defaults.seed} |" in table and defaults.greedy


def test_the_line_of_the_page_is_an_answer():
    (line,) = blocks("json")
    assert AnswerLine.model_validate_json(line).logprobs == [-0.25, -1.5]


def test_the_example_runs(tmp_path, capsys):
    folder = save_tiny_folder(tmp_path / "model")
    (code,) = blocks("python")
    exec(compile(code.replace("runs/quickstart/model", str(folder)), "align.md", "exec"), {})
    is_zero, k3 = capsys.readouterr().out.split()
    assert is_zero == "True" and float(k3) > 0
