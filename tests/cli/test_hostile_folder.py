"""A folder whose chat template never ends: said before any weight is loaded."""

import pytest
from tiny_model import save_tiny_folder

from hyla.checkpoints.templates import process
from hyla.cli.chat_models import open_model
from hyla.cli.serve import _load
from hyla.errors import CapacityError, CheckpointError
from hyla.server import ServeConfig, ServedModelConfig


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "CPU_SECONDS", 0)
    save_tiny_folder(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ 9**(9**9) }}")
    return tmp_path / "model"


def never(*arguments, **options):
    raise AssertionError("an engine was started")


def given_up(launch, *, progress, give_up):
    """An engine that loads for ever, unless it is told that nobody wants it any more."""
    assert give_up.wait(60)
    raise CapacityError("given up")


def test_a_server_refuses_it_while_its_engine_still_loads(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hyla.engine.EngineProcess", given_up, raising=False)
    model = ServedModelConfig(name="x", folder=str(folder))
    with pytest.raises(CheckpointError, match="cannot be compiled: takes more than 0 seconds of processor time"):
        _load(model, ServeConfig(models=[model]))
    monkeypatch.setattr("hyla.engine.EngineProcess", never, raising=False)
    # Another template takes its place, before it is looked at.
    (tmp_path / "other.jinja").write_text("x")
    other = model.model_copy(update={"chat_template": tmp_path / "other.jinja"})
    with pytest.raises(AssertionError, match="an engine was started"):
        _load(other, ServeConfig(models=[other]))


def test_hyla_chat_refuses_it_before_it_makes_an_engine(folder, monkeypatch):
    monkeypatch.setattr("hyla.Engine", never, raising=False)
    with pytest.raises(CheckpointError, match="cannot be compiled"), open_model(str(folder), name=None, api_key=None):
        pass
