"""Disks that refuse a write, wherever it comes: one error, nothing half-written, older checkpoints as they were."""

import json
import os
import resource
from contextlib import contextmanager

import pytest
import torch
from tiny_run import CONFIG, RECIPE, tiny_trainer, write_text_folder
from tiny_text import byte_tokenizer

from hyla.checkpoints import load_model, load_tokenizer, save_model
from hyla.checkpoints.card import write_card
from hyla.errors import CheckpointError, HylaError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model
from hyla.train.files import held
from hyla.train.model_source import ModelSource
from hyla.train.run import RunRequest, open_run
from hyla.train.run_data import DataSource
from hyla.train.run_state import finished_states

LIMITS = (0, 1, 50, 300, 700, 1000, 3000, 10_000, 20_000, 40_000, 80_000, 160_000, 320_000)
"""Bytes that any one file may have; below some each file of a folder fails once."""


@contextmanager
def no_file_over(size):
    """The system refuses to write more into a file, as it does when a disk is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def everything(folder):
    """Every file below a folder, with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def leftovers(folder):
    return [str(path) for path in folder.rglob("*") if "partial" in path.name or path.name.startswith((".m-", ".tmp"))]


def make(seed):
    return initialize(Model(family_of("qwen3").tiny), seed)


def test_a_model_is_saved_whole_or_the_older_one_stays(tmp_path):
    save_model(make(1), tmp_path / "m", tokenizer=byte_tokenizer())
    before, refused = everything(tmp_path), 0
    size = max(map(len, before.values()))
    for limit in LIMITS:
        try:
            with no_file_over(limit):
                save_model(make(2), tmp_path / "m", tokenizer=byte_tokenizer())
        except CheckpointError as error:
            refused += 1
            assert str(tmp_path / "m") in str(error) and "free some space" in str(error)
            assert everything(tmp_path) == before
        else:
            assert limit >= size
    assert refused > 5
    loaded, second = NamedWeights(load_model(tmp_path / "m")), NamedWeights(make(2))
    assert all(torch.equal(loaded.read(name), second.read(name)) for name in second.shapes)
    assert load_tokenizer(tmp_path / "m").encode("ab") == byte_tokenizer().encode("ab")


@pytest.mark.parametrize("limit", LIMITS[::2])
def test_training_ends_with_an_error_and_goes_on_from_the_checkpoint_before(tmp_path, limit):
    config = CONFIG.model_copy(update={"steps": 4, "checkpoint_every": 2})
    tiny_trainer(tmp_path, config.model_copy(update={"steps": 2})).run()
    (first,) = finished_states(tmp_path / "checkpoints")
    before = everything(first)
    trainer = tiny_trainer(tmp_path, config)
    assert trainer.resume() == 2
    try:
        with no_file_over(limit):
            trainer.run()
    except CheckpointError as error:
        assert "cannot write" in str(error) and str(tmp_path) in str(error) and "free some space" in str(error)
        assert finished_states(tmp_path / "checkpoints") == [first]
    assert everything(first) == before and leftovers(tmp_path) == []
    again = tiny_trainer(tmp_path, config)
    again.resume()
    again.run()
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4]


def test_a_run_is_prepared_whole_or_not_at_all(tmp_path):
    data = write_text_folder(tmp_path / "data")
    request = RunRequest(model=ModelSource(hybrid=RECIPE), data=DataSource(texts=str(data)), train=CONFIG)
    refused = 0
    for limit in (*LIMITS, 10**9):
        try:
            with no_file_over(limit), held(tmp_path / "run"):
                run = open_run(tmp_path / "run", request, lambda line: None)
        except HylaError as error:
            refused += 1
            assert f"cannot write {tmp_path / 'run'}" in str(error) and "free some space" in str(error)
            assert sorted(os.listdir(tmp_path)) == ["data"]
        else:
            break
    assert refused > 3 and run.train.steps == CONFIG.steps


def test_a_card_is_written_whole_or_the_older_one_stays(tmp_path):
    from test_card import CARD

    write_card(tmp_path, CARD, name="m")
    before = everything(tmp_path)
    for limit in (0, 10, 100):
        with no_file_over(limit), pytest.raises(CheckpointError, match=r"cannot write the card.*free some space"):
            write_card(tmp_path, CARD.model_copy(update={"family": "another"}), name="m")
        assert everything(tmp_path) == before
