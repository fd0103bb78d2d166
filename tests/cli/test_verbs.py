import json
import socket
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner
from tiny_model import save_tiny_folder
from tiny_training import TINY, write_text

from hyla.cli import main
from hyla.cli.app import app
from hyla.cli.training import make_request
from hyla.errors import ConfigError
from hyla.train.run import open_run


@pytest.fixture
def data(tmp_path):
    return write_text(tmp_path / "data")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def run(*arguments):
    """(exit status, printed text) of a verb, in this process."""
    result = CliRunner().invoke(typer.main.get_command(app), [str(part) for part in arguments], catch_exceptions=False)
    return result.exit_code, result.output


def failure(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """(exit status, what stands on standard error) of the whole command."""
    monkeypatch.setattr("sys.argv", ["hyla", *(str(part) for part in arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr().err


def test_train_leaves_a_model_that_generate_and_inspect_read(data, config, tmp_path):
    out = tmp_path / "run"
    assert run("train", data, "--out", out, "--config", config)[0] == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
    status, text = run("generate", out / "model", "def ", "--max-tokens", 5, "--seed", 1)
    assert status == 0 and run("generate", out / "model", "def ", "--max-tokens", 5, "--seed", 1)[1] == text
    status, text = run("inspect", out / "model")
    assert status == 0
    assert "KDA" in text and "MLA" in text and "kimi_linear" in text


def test_train_again_continues_and_other_settings_are_refused(data, config, tmp_path):
    out = tmp_path / "run"
    run("train", data, "--out", out, "--config", config)
    weights = (out / "model" / "model.safetensors").read_bytes()
    status, text = run("train", data, "--out", out, "--config", config)
    assert status == 0 and "continuing after step 4 of 4" in text
    assert (out / "model" / "model.safetensors").read_bytes() == weights
    request = make_request(data, config=config, minutes=None, steps=None, seed=8)
    with pytest.raises(ConfigError, match=r"train\.seed = 0, not 8"):
        open_run(out, request, print)


def test_minutes_become_steps_once(data, config, tmp_path):
    request = make_request(data, config=config, minutes=0.01, steps=None, seed=None)
    opened = open_run(tmp_path / "run", request, lambda line: None)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert opened.train.steps == record["train"]["steps"] >= 8
    assert record["step_seconds"] > 0
    assert open_run(tmp_path / "run", request, lambda line: None).train.steps == opened.train.steps
    repeated = make_request(data, config=config, minutes=None, steps=opened.train.steps, seed=0)
    assert open_run(tmp_path / "run", repeated, lambda line: None).train == opened.train


def test_a_failed_preparation_leaves_nothing(config, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "run"
    status, text = failure(monkeypatch, capsys, "train", tmp_path / "empty", "--out", out, "--config", config)
    assert status == 1
    assert text.startswith("error: data folder") and text.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "tiny.toml"]


def test_a_folder_with_other_files_is_never_touched(data, config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    status, text = failure(monkeypatch, capsys, "train", data, "--out", out, "--config", config)
    assert status == 1 and "is not empty and holds no run" in text
    assert [path.name for path in out.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("verb", ["serve", "quickstart"])
def test_a_port_in_use_is_said_before_any_work(verb, tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.chdir(tmp_path)
        arguments = [tmp_path / "absent"] if verb == "serve" else []
        status, text = failure(monkeypatch, capsys, verb, *arguments, "--port", port)
    assert status == 1 and str(port) in text and "--port" in text
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["quickstart", "--minuets", "1"],
        ["quickstart", "--minutes", "-1"],
        ["train"],
        ["serve", "folder", "--port", "70000"],
        ["dance"],
    ],
)
def test_bad_flags_exit_with_2(arguments, monkeypatch, capsys):
    status, text = failure(monkeypatch, capsys, *arguments)
    assert status == 2 and "Traceback" not in text


def test_a_broken_folder_is_one_line(tmp_path, monkeypatch, capsys):
    for verb in (["inspect"], ["generate", "hello"], ["chat"]):
        status, text = failure(monkeypatch, capsys, verb[0], tmp_path / "absent", *verb[1:])
        assert status == 1 and text.startswith("error: ") and text.count("\n") == 1


def test_minutes_and_steps_together_and_unknown_keys_are_refused(config, tmp_path):
    with pytest.raises(ConfigError, match="not both"):
        make_request(None, config=None, minutes=1.0, steps=5, seed=None)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[recipe]\nhiden_dim = 3\n")
    with pytest.raises(ConfigError, match="hiden_dim"):
        make_request(None, config=wrong, minutes=None, steps=5, seed=None)
    wrong.write_text("[model]\n")
    with pytest.raises(ConfigError, match="'model'"):
        make_request(None, config=wrong, minutes=None, steps=5, seed=None)


def test_chat_keeps_the_conversation(tmp_path, monkeypatch, capsys):
    folder = save_tiny_folder(tmp_path / "model")
    lines = iter(["def read", "import", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    status, text = run("chat", folder, "--max-tokens", 4, "--seed", 5)
    assert status == 0 and text.count("\n") >= 2


def test_generate_names_a_folder_without_a_tokenizer_before_it_loads(tmp_path, monkeypatch, capsys):
    folder = save_tiny_folder(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").write_bytes(b"never read")
    status, told = failure(monkeypatch, capsys, "generate", folder, "import")
    assert status == 1 and f"{folder} has no tokenizer.json" in told
