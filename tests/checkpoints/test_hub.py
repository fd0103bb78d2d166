"""Names as well as folders, against a small hub on localhost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_hub import small_hub
from tiny_model import save_tiny_folder

from hyla.checkpoints import load_model, resolve
from hyla.checkpoints.hub import NAME
from hyla.errors import CheckpointError, ConfigError

# In a process of its own: huggingface_hub reads its environment when it is imported.
ONLINE = """
import json, sys
from click.testing import CliRunner
import typer
import hyla
from hyla.checkpoints import resolve
from hyla.cli.app import app

def error(*arguments, **options):
    try:
        resolve(*arguments, **options)
    except Exception as found:
        return f"{type(found).__name__}: {found}"

small = resolve("org/tiny", with_weights=False)
found = {"small": sorted(str(file.relative_to(small)) for file in small.rglob("*.*"))}
inspected = CliRunner().invoke(typer.main.get_command(app), ["inspect", "org/tiny", "--revision", "main"])
found["inspect"] = inspected.output
found["before_weights"] = sorted(str(file.relative_to(small)) for file in small.rglob("*.*"))
seen = []
model = hyla.load("org/tiny", progress=lambda *numbers: seen.append(numbers))
found["hidden_dim"] = model.config.hidden_dim
found["progress"] = seen
found["files"] = sorted(str(file.relative_to(small)) for file in small.rglob("*.*"))
engine = hyla.Engine("org/tiny", memory=1 << 22, max_num_sequences=1)
found["text"] = engine.generate("def ", hyla.SamplingParams(max_tokens=3, temperature=0.0))[0].token_ids
found["other"] = hyla.load("org/tiny", revision="v2").config.vocab_size
found["no_repo"] = error("org/none")
found["no_revision"] = error("org/tiny", "v3")
found["gated"] = error("org/gated")
print(json.dumps(found))
"""
OFFLINE = """
import json
from hyla.checkpoints import resolve
found = {"cached": str(resolve("org/tiny"))}
try:
    resolve("org/none")
except Exception as error:
    found["missing"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def answer(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(what an online process found, what an offline one then found, files that were fetched, the folder)."""
    root = tmp_path_factory.mktemp("hub")
    tiny = save_tiny_folder(root / "tiny")
    other = shutil.copytree(tiny, root / "other")
    for file in ("modeling_evil.py", "pytorch_model.bin", "consolidated.safetensors", "README.md"):
        (tiny / file).write_bytes(b"never fetched")
    (tiny / "additional_chat_templates").mkdir()
    (tiny / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    (tiny / "original").mkdir()
    (tiny / "original" / "config.json").write_bytes(b"never fetched")
    (tiny / "original" / "model.safetensors").write_bytes(b"never fetched")
    repos = {"org/tiny": {"main": tiny, "v2": other}, "org/gated": {"main": tiny}}
    place = {"HF_HOME": str(root / "home"), "HF_TOKEN": "", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with small_hub(repos, gated={"org/gated"}) as hub:
        online = answer(ONLINE, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", **place)
        fetched = list(hub.fetched)
        offline = answer(OFFLINE, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1", **place)
        assert hub.fetched == fetched
    return online, offline, fetched, tiny


def test_a_name_loads_and_generates_as_its_folder_does(world):
    import hyla

    online, _, _, folder = world
    assert online["hidden_dim"] == load_model(folder).config.hidden_dim
    engine = hyla.Engine(folder, memory=1 << 22, max_num_sequences=1)
    expected = engine.generate("def ", hyla.SamplingParams(max_tokens=3, temperature=0.0))[0].token_ids
    assert online["text"] == list(expected)


def test_only_data_files_are_fetched(world):
    online, _, fetched, _ = world
    small = {"chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    small.add("additional_chat_templates/tool_use.jinja")
    assert set(online["small"]) == set(online["before_weights"]) == small
    assert set(online["files"]) == set(fetched) == small | {"model.safetensors"}


def test_inspect_reads_a_name_without_its_weights(world):
    assert "kda" in world[0]["inspect"].lower() and "not fetched" in world[0]["inspect"]


def test_a_revision_is_another_folder(world):
    assert world[0]["other"] == load_model(world[3].parent / "other").config.vocab_size


def test_progress_ends_at_the_bytes_of_the_checkpoint(world):
    seen = world[0]["progress"]
    total = seen[-1][1]
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1][0] == total
    file = (world[3] / "model.safetensors").stat().st_size
    assert 0 < file - total < 20_000  # the header


@pytest.mark.parametrize(
    "case, message",
    [
        ("no_repo", "CheckpointError: org/none is neither a folder here nor a model on the hub"),
        ("no_revision", "CheckpointError: org/tiny has no revision 'v3'"),
        ("gated", "CheckpointError: org/gated is gated: accept its terms"),
    ],
)
def test_what_cannot_be_had_is_said(world, case, message):
    assert world[0][case].startswith(message)


def test_offline_uses_the_cache_and_says_what_is_not_in_it(world):
    offline = world[1]
    assert (Path(offline["cached"]) / "model.safetensors").exists()
    assert offline["missing"].startswith("CheckpointError: org/none is not in the local cache")


def test_a_folder_needs_no_hub_and_has_no_revisions(tmp_path):
    (tmp_path / "org").mkdir()
    assert resolve(tmp_path / "org") == tmp_path / "org"
    with pytest.raises(ConfigError, match="revision = 'main' needs a name"):
        resolve(tmp_path / "org", "main")


@pytest.mark.parametrize("text", ["nowhere", "./org/name", "../name", "/a/b", "a/b/c", "org/", "~/models", "org/na me"])
def test_what_looks_like_a_path_is_never_looked_up(text):
    assert NAME.fullmatch(text) is None
    with pytest.raises(CheckpointError, match="is not a folder"):
        load_model(text)


def test_names_may_hold_dots_and_dashes():
    assert NAME.fullmatch("Qwen/Qwen3.5-0.8B")
