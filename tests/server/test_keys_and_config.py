import os

import pytest
from starlette.requests import Request

from hyla.engine import EngineOptions
from hyla.errors import ConfigError
from hyla.server import KeyRing, ServeConfig
from hyla.server.config import read_toml
from hyla.server.guard.keys import digest, label_of
from hyla.server.reading.errors import HTTPFailure


def request(**headers):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def status_of(call, *args):
    with pytest.raises(HTTPFailure) as caught:
        call(*args)
    return caught.value.status


def test_without_keys_everyone_may_ask_and_nobody_administer():
    ring = KeyRing()
    assert ring.check(request()) == "" and status_of(ring.check_admin, request(authorization="Bearer x")) == 403


def test_a_key_comes_in_either_header_and_its_label_does_not_tell_it():
    ring = KeyRing(["sécret", "other"], admin_keys=["boss"])
    label = ring.check(request(authorization="Bearer sécret"))
    assert label == ring.check(request(x_api_key="sécret")) == label_of("sécret")
    assert "secret" not in label and label != ring.check(request(authorization="bearer other"))
    assert ring.check(request(authorization="Bearer boss")) == "admin"
    for headers in ({}, {"authorization": "Bearer "}, {"authorization": "sécret"}, {"x_api_key": "sécre"}):
        assert status_of(ring.check, request(**headers)) == 401
    ring.check_admin(request(authorization="Bearer boss"))
    assert status_of(ring.check_admin, request(authorization="Bearer sécret")) == 403


def test_every_key_is_compared_by_digests_of_one_length(monkeypatch):
    compared = []
    real = __import__("hmac").compare_digest
    monkeypatch.setattr(
        "hyla.server.guard.keys.hmac.compare_digest", lambda a, b: compared.append((a, b)) or real(a, b)
    )
    KeyRing(["one", "two", "three"]).label("one")
    assert [len(a) == len(b) == len(digest("")) for a, b in compared] == [True] * 3


def test_a_key_file_is_read_again_when_it_changes(tmp_path, caplog):
    file = tmp_path / "keys"
    file.write_text("# people\nalice\n\nbob\n")
    ring = KeyRing(file=file)
    assert ring.check(request(x_api_key="alice"))
    file.write_text("carol\n")
    os.utime(file, ns=(1, 1))
    assert ring.check(request(x_api_key="carol")) and status_of(ring.check, request(x_api_key="alice")) == 401
    file.write_text("# nobody\n")
    os.utime(file, ns=(2, 2))
    assert ring.check(request(x_api_key="carol")) and "holds no key" in caplog.text
    file.unlink()
    assert ring.check(request(x_api_key="carol"))
    with pytest.raises(ConfigError, match="cannot read the key file"):
        KeyRing(file=file)


TOML = """
port = 9000
key_file = "keys.txt"
[limits]
max_requests = 7
[[models]]
name = "one"
folder = "model"
chat_template = "chat.jinja"
[models.engine]
dtype = "bfloat16"
[[models]]
name = "two"
folder = "org/name"
"""


def test_a_file_is_a_configuration(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "serve.toml").write_text(TOML)
    config = ServeConfig(**read_toml(tmp_path / "serve.toml"))
    assert (config.port, config.host, config.limits.max_requests) == (9000, "127.0.0.1", 7)
    one, two = config.models
    assert one.folder == str(tmp_path / "model") and two.folder == "org/name"
    assert config.key_file == tmp_path / "keys.txt" and one.chat_template == tmp_path / "chat.jinja"
    assert one.engine == EngineOptions(dtype="bfloat16") and two.engine == EngineOptions()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("port = 9000", "prot = 9000"), "prot"),
        (("max_requests = 7", "max_request = 7"), "max_request"),
        (('name = "two"', 'name = "one"'), "two models are called 'one'"),
        (("[[models]]", "[models"), "cannot read"),
        (('folder = "org/name"', ""), "folder"),
        (("port = 9000", "port = 90000"), "port = 90000"),
        (("dtype =", "dtyp ="), "EngineOptions: dtyp = 'bfloat16'"),
        (('"bfloat16"', '"float8"'), "EngineOptions: dtype = 'float8'"),
        (("[models.engine]\ndtype", "engine"), "engine = 'bfloat16'"),
        (("[limits]\nmax_requests", "limits"), "limits = 7"),
    ],
)
def test_a_wrong_file_is_said_by_name(tmp_path, change, words):
    (tmp_path / "serve.toml").write_text(TOML.replace(*change))
    with pytest.raises(ConfigError, match=words):
        ServeConfig(**read_toml(tmp_path / "serve.toml"))


def test_flags_come_before_the_file_and_folders_may_have_names(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from hyla.cli import serve
    from hyla.cli.app import app

    seen = []
    monkeypatch.setattr(serve, "run", seen.append)
    monkeypatch.setenv("HYLA_API_KEY", "from-environment")
    (tmp_path / "serve.toml").write_text('port = 9000\n[[models]]\nname = "one"\nfolder = "m"\n')
    arguments = ["serve", "--config", str(tmp_path / "serve.toml"), "two=org/name", "some/folder", "--port", "9001"]
    done = CliRunner().invoke(app, [*arguments, "--dtype", "bfloat16", "--tool-parser", "hermes"])
    assert done.exit_code == 0, done.output
    (config,) = seen
    assert [(model.name, model.folder) for model in config.models] == [
        ("one", "m"), ("two", "org/name"), ("folder", "some/folder"),
    ]  # fmt: skip
    assert config.port == 9001 and config.api_keys == ("from-environment",)
    assert all(
        model.engine == EngineOptions(dtype="bfloat16") and model.tool_parser == "hermes" for model in config.models
    )
    assert CliRunner().invoke(app, [*arguments, "--api-key", "given"]).exit_code == 0
    assert seen[-1].api_keys == ("given",)
    with pytest.raises(ConfigError, match="nothing to serve"):
        CliRunner().invoke(app, ["serve"], catch_exceptions=False)
