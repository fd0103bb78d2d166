"""Nothing that a file, a model or a client says commands a terminal."""

import io
import json
import logging
import sys

import pytest
from tiny_text import byte_tokenizer, tiny_model
from typer.testing import CliRunner

from hyla import cli
from hyla.checkpoints import save_model
from hyla.cli.app import app
from hyla.cli.console import PlainConsole
from hyla.server.watch import logs
from hyla.terminal_text import COMMANDS, escaped, printable, shortened

ATTACK = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\u202ename\u2028\r"
VISIBLE = r"\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\u202ename\u2028\r"


def commands(text):
    return [char for char in COMMANDS.findall(text) if char not in "\n\t"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "m"
    save_model(tiny_model("qwen3"), folder, tokenizer=byte_tokenizer())
    return folder


def run_main(monkeypatch, capfd, *arguments):
    """(status, standard output and errors) of the command line."""
    monkeypatch.setattr(sys, "argv", ["hyla", *arguments])
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    return ended.value.code, out + err


def test_escaping_shows_what_stripping_removes():
    assert escaped(ATTACK) == VISIBLE and not commands(printable(ATTACK))
    assert escaped("plain é\U0001f600\n") == printable("plain é\U0001f600\n") == "plain é\U0001f600\n"
    assert len(shortened("x" * 10**6)) < 4100 and shortened("x" * 4000) == "x" * 4000


@pytest.mark.parametrize("verb", [["inspect"], ["cost"], ["generate", "x"], ["score", "SELF"]])
def test_a_key_of_a_config_reaches_no_terminal(tmp_path, folder, monkeypatch, capfd, verb):
    other = tmp_path / "m"
    other.mkdir()
    keys = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**keys, ATTACK + "k" * 10**6: 1}))
    for name in ("model.safetensors", "tokenizer.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    rest = [str(other / "config.json") if part == "SELF" else part for part in verb[1:]]
    status, text = run_main(monkeypatch, capfd, verb[0], str(other), *rest)
    assert status == 1 and text.startswith("error: ") and not commands(text)
    assert VISIBLE in text and len(text) < 5000


def test_the_names_of_tensors_reach_no_log(tmp_path, folder, monkeypatch, capfd):
    from safetensors.torch import load_file, save_file

    other = tmp_path / "m"
    other.mkdir()
    keys = json.loads((folder / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(keys))
    (other / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    name = f"model.layers.0.self_attn.{ATTACK}.rotary_emb.inv_freq"
    save_file({**tensors, name: tensors["model.norm.weight"].clone()}, other / "model.safetensors")
    status, text = run_main(monkeypatch, capfd, "generate", str(other), "x")
    assert status == 1 and VISIBLE in text and not commands(text)


def test_what_is_logged_without_a_log_is_one_harmless_line(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["hyla", "inspect", "/nowhere"])
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    with pytest.raises(SystemExit):
        cli.main()
    record = logging.LogRecord("hyla", logging.WARNING, "f", 1, "ignored %s", (ATTACK,), None)
    assert logging.lastResort.format(record) == f"ignored {VISIBLE}"


def test_the_log_of_the_server_commands_nothing():
    stream = io.StringIO()
    handlers = {name: logging.getLogger(name).handlers for name in ("hyla", "uvicorn")}
    try:
        logs.configure("text", stream=stream)
        logging.getLogger("hyla.server").warning("request of %s\n2026 ERROR fake", ATTACK)
        try:
            raise ValueError(ATTACK)
        except ValueError:
            logging.getLogger("hyla.server").exception("failed")
    finally:
        for name, found in handlers.items():
            logging.getLogger(name).handlers = found
            logging.getLogger(name).propagate = True
    lines = stream.getvalue().splitlines()
    assert not commands(stream.getvalue()) and VISIBLE in lines[0] and r"\n2026 ERROR fake" in lines[0]
    assert lines[-1].strip() == f"ValueError: {VISIBLE}"


class Terminal(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_generate_prints_raw_text_only_where_no_terminal_reads_it(folder, monkeypatch, is_terminal):
    import hyla
    from hyla.cli.generate import generate

    class Engine:
        def __init__(self, *args, **options): ...
        def close(self): ...
        def stream(self, *args):
            yield from (hyla.engine.TokenEvent("r", 0, (1,), part) for part in (ATTACK, "\tend\n"))

    monkeypatch.setattr(hyla, "Engine", Engine)
    monkeypatch.setattr(sys, "stdout", Terminal(is_terminal))
    generate(str(folder), "x")
    text = sys.stdout.getvalue()
    assert text == ("]52;c;cm0gLXJm[2J31mname\tend\n\n" if is_terminal else ATTACK + "\tend\n\n")


def test_tables_print_names_as_they_are_but_for_commands():
    from rich.table import Table

    console = PlainConsole()
    table = Table()
    table.add_column("file")
    table.add_row("[red]a[/b]:smile:" + "\x1b[2J")
    with console.capture() as captured:
        console.print(table)
        console.print("[bold]x[/none]" + ATTACK, soft_wrap=True)
    text = captured.get()
    assert "[red]a[/b]:smile:" in text and "[bold]x[/none]" + VISIBLE in text and not commands(text)


def test_a_card_and_a_path_command_nothing(tmp_path, folder):
    other = tmp_path / "a[" / "b]"
    other.mkdir(parents=True)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    training = {"data": ATTACK, "tokens": 1, "steps": 1, "planned_steps": 1, "seconds": 1.0, "seed": 1}
    card = {"family": ATTACK, "parameters": 1, "active_parameters": 1, "context_len": 9, "training": training}
    (other / "hyla_card.json").write_text(json.dumps(card))
    result = CliRunner().invoke(app, ["inspect", str(other)])
    assert result.exit_code == 0 and VISIBLE in result.output and not commands(result.output)
