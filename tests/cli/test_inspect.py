import json

import pytest
from safetensors.torch import load_file, save_file
from test_verbs import failure, run

from hyla.checkpoints import read_config, save_model
from hyla.checkpoints.card import HeldoutScore, derived_card, write_card
from hyla.models.formats.presets import presets
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
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
    assert "17,349,040,896 work on one token" in text and "30,720 (30.0 KiB)" in text
    assert "MTP                 attention, MoE: 6,595,568,128 parameters on top" in text


def test_json_says_the_same_in_numbers():
    status, text = run("inspect", "Qwen3-Next-80B-A3B", "--json")
    report = json.loads(text)
    assert status == 0 and report["kv_bytes_per_token"] == 24576
    # 36 layers: 32 fp32 states of 128 x 128, and three bf16 rows of 8192 convolved channels.
    assert report["published_state_bytes_per_sequence"] == 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)
    assert report["resident_state_bytes_per_sequence"] > report["published_state_bytes_per_sequence"]
    assert report["mtp"][0]["kv_bytes_per_token"] == 2048


def test_windows_are_published_apart_and_resident_with_the_other_keys():
    report = json.loads(run("inspect", "MiMo-V2-Flash", "--json")[1])
    assert report["kv_bytes_per_token"] == 9 * 4 * (192 + 128) * 2
    assert report["window_bytes_per_sequence"] == 39 * 8 * (192 + 128) * 2 * 128
    assert report["resident_kv_bytes_per_token"] == (9 * 4 + 39 * 8) * (192 + 128) * 2
    assert "in KV per token" in run("inspect", "MiMo-V2-Flash")[1]


def test_layers_that_differ_in_their_decays_alone_are_one_line():
    text = run("inspect", "MiniMax-M1")[1]
    assert "70x lightning" in text and "10x attention" in text


def test_what_is_assumed_is_marked_wherever_it_shows():
    text = run("inspect", "Ling-2.5-1T")[1]
    assert "assumed             q_lora_rank = 1536, that of Ling-2.6-flash" in text and "none (assumed)" in text
    report = json.loads(run("inspect", "ring-flash-linear-2.0", "--json")[1])
    assert report["assumed"]["group_norm_size"].startswith("8, ")
    assert "131,072 tokens (assumed)" in run("inspect", "Ring-flash-linear-2.0")[1]
    assert json.loads(run("inspect", "Kimi-Linear-48B-A3B", "--json")[1])["assumed"] == {}


def test_without_a_name_the_published_sizes_are_listed_with_what_is_assumed():
    status, text = run("inspect")
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert status == 0 and set(presets()) <= set(lines)
    assert "assumed: q_lora_rank, routed_scaling_factor" in lines["Ring-2.5-1T"]
    assert "assumed" not in lines["Kimi-Linear-48B-A3B"]
    listed = json.loads(run("inspect", "--json")[1])
    assert listed["MiniMax-M2.5"]["assumed"].keys() == {"max_position_embeddings"}


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


def test_it_says_where_it_would_be_computed_and_how():
    report = json.loads(run("inspect", "qwen3-0.6b", "--device", "cpu", "--json")[1])
    assert report["device"] == "cpu" and report["arithmetic"] in ("native", "torch")
    assert (report["native_build"] is not None) == (report["arithmetic"] == "native")
    assert f"cpu, in the {report['arithmetic']} arithmetic" in run("inspect", "qwen3-0.6b", "--device", "cpu")[1]


def test_a_card_is_shown_with_the_folder(folder):
    card = derived_card(
        read_config(folder).config,
        parameters=1,
        active=1,
        licence="MIT",
        heldout=HeldoutScore(bits_per_byte=1.5, num_bytes=10),
        examples=("def ",),
    )
    write_card(folder, card, name="m")
    status, text = run("inspect", folder)
    assert status == 0 and "held out            1.500 bits per byte over 10 bytes" in text
    assert "licence             MIT" in text
    assert text.count("context  ") == 1, "what the config says is said once"
    assert json.loads(run("inspect", folder, "--json")[1])["card"]["examples"] == ["def "]


def test_a_broken_card_is_a_line_and_hides_nothing(folder):
    (folder / "hyla_card.json").write_text("{")
    status, text = run("inspect", folder)
    assert status == 0 and "card                " in text and "is not valid JSON" in text and "parameters" in text
