"""examples/which_module.py on a tiny known model: questions, a store, both recipes, an adapter, answers counted."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner
from known_models import TINY
from tiny_gguf import tiny_gguf, tiny_model

from hyla.checkpoints import hub, load_tokenizer, names
from hyla.cli.app import app

ROOT = Path(__file__).parents[1]
SMALL = ["train.steps=2", "train.batch_tokens=1500", "train.micro_batch_tokens=750"]


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("which_module", ROOT / "examples" / "which_module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MODULES, module.TRAINED, module.HELDOUT = ["argparse", "mailbox", "urllib"], 8, 3
    return module


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A tiny model that a name stands for, as if it had been pulled. Returns the name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tiny_gguf(tiny_model(max_position_embeddings=2048)).encode()
    model = replace(TINY, num_bytes=len(data))
    model.path.parent.mkdir(parents=True)
    model.path.write_bytes(data)
    for module in (names, hub):
        monkeypatch.setattr(module, "KNOWN_MODELS", (model,))
    return model.name


def run(*words) -> str:
    result = CliRunner().invoke(typer.main.get_command(app), [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def chats(file: Path) -> list[tuple[str, str]]:
    """(question, answer) of each line."""
    lines = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    return [(question["content"], answer["content"]) for question, answer in lines]


def test_no_question_is_learnt_and_asked_and_none_says_its_answer(example, tmp_path):
    for folder in ("once", "again"):
        example.write(tmp_path / folder)
    files = [[tmp_path / folder / f"{part}.jsonl" for folder in ("once", "again")] for part in ("chats", "heldout")]
    assert all(once.read_bytes() == again.read_bytes() for once, again in files)
    learnt, asked = (chats(once) for once, _ in files)
    assert len(learnt) == 24 and len(asked) == 9
    assert not {question for question, _ in learnt} & {question for question, _ in asked}
    assert all(answer not in question.lower() for question, answer in learnt + asked)


def test_a_known_model_is_tuned_whole_and_by_an_adapter_and_asked(example, known, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example.write(tmp_path)
    run("data", "build", "chats.jsonl", "--chat", "--tokenizer", known, "--heldout-share", 0.2, "--out", "store")
    for recipe in ("sft", "lora"):
        settings = ['data.stores=[{folder="store"}]', f"model.start_from={known}", *SMALL]
        given = [word for setting in settings for word in ("--set", setting)]
        assert "saved" in run("train", ROOT / "recipes" / f"{recipe}.toml", *given, "--out", recipe)
    assert json.loads(Path("lora/adapter/adapter_config.json").read_text())["base_model_name_or_path"] == known
    assert load_tokenizer(known).backend.to_str() == load_tokenizer("sft/model").backend.to_str()
    for model, adapter in [(known, None), ("sft/model", None), (known, "lora/adapter")]:
        capsys.readouterr()
        example.ask(tmp_path, model, adapter)
        said = capsys.readouterr().out.splitlines()
        assert [re.sub(r"\d+ of 9.*", "", line) for line in said] == ["as it likes: ", "one of the names: "]
