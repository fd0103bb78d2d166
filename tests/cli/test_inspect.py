import json

import pytest
from safetensors.torch import load_file, save_file
from test_verbs import failure, run

from hyla.checkpoints import save_model
from hyla.models.family import family_of
from hyla.models.initialize import initialize
from hyla.models.presets import presets
from hyla.models.summary import compress
from hyla.models.trunk import Model


@pytest.fixture
def folder(tmp_path):
    save_model(initialize(Model(family_of("qwen3_5").tiny), 0), tmp_path / "m")
    return tmp_path / "m"


def test_a_preset_is_found_in_any_case_and_its_stack_written_short():
    status, text = run("inspect", "qwen3.5-397B-a17b")
    assert status == 0
    assert "15x (3x gated delta, attention)" in text and "60x MoE" in text
    assert "17,349,040,896 work on one token" in text and "30.0 KiB (bfloat16)" in text
    assert "MTP                 attention, MoE: 6,595,568,128 parameters on top" in text


def test_json_says_the_same_in_numbers():
    status, text = run("inspect", "Qwen3-Next-80B-A3B", "--json")
    report = json.loads(text)
    assert status == 0 and report["kv_bytes_per_token"] == 24576
    # 36 layers: 32 fp32 states of 128 x 128, and three bf16 rows of 8192 convolved channels.
    assert report["published_state_bytes_per_sequence"] == 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)
    assert report["resident_state_bytes_per_sequence"] > report["published_state_bytes_per_sequence"]
    assert report["mtp"][0]["kv_bytes_per_token"] == 2048


def test_a_folder_says_what_is_ignored_and_whether_its_mtp_is_there(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    assert "promised" not in run("inspect", folder)[1]
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("mtp.")}
    save_file({**kept, "model.visual.patch.weight": kept["model.norm.weight"].clone()}, file)
    text = run("inspect", folder)[1]
    assert "promised, but the folder has no tensors of it" in text
    assert "1 tensors: only the language model is read" in text
    assert "architectures: names a class of another library" in text
    assert json.loads(run("inspect", folder, "--json")[1])["has_mtp_tensors"] is False


def test_every_preset_can_be_inspected():
    for name in presets():
        assert run("inspect", name, "--json")[0] == 0


def test_a_typo_is_one_line_with_suggestions(monkeypatch, capsys):
    status, text = failure(monkeypatch, capsys, "inspect", "Qwen3.5-29B")
    assert status == 1 and text.startswith("error: ") and text.count("\n") == 1 and "Qwen3.5-9B" in text


@pytest.mark.parametrize(
    "labels, text",
    [
        ("", ""),
        ("a", "a"),
        ("aaa", "3x a"),
        ("abab", "2x (a, b)"),
        ("aabaaba", "2x (2x a, b), a"),
        ("abca", "a, b, c, a"),
    ],
)
def test_repetitions_are_compressed(labels, text):
    assert compress(labels) == text
