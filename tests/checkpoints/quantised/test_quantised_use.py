"""A quantised folder is used as a plain one: verbs, saving, new weights in place, and what the log says of it."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from click.testing import CliRunner
from quantised_writing import CASES, write_folder
from safetensors.torch import load_file, save_file
from tiny_model import save_tiny_folder

from hyla.checkpoints import WeightUpdate, load_model, load_tokenizer, read_config, save_model
from hyla.cli.app import app
from hyla.errors import CheckpointError
from hyla.models.state import NamedWeights

FOLDERS = Path(__file__).parent / "folders"
CPU = torch.device("cpu")


def copied(tmp_path, name):
    return shutil.copytree(FOLDERS / name, tmp_path / name)


def weights_of(model):
    named = NamedWeights(model)
    return {name: named.read(name).clone() for name in named.shapes}


@pytest.fixture
def chat(tmp_path):
    """A quantised folder of a hybrid model with a tokenizer."""
    folder = save_tiny_folder(tmp_path / "m")
    write_folder(folder, tmp_path / "plain", CASES["bnb-nf4"][2], lambda name: "bnb-nf4" if "proj" in name else None)
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "plain")
    shutil.copy(folder / "chat_template.jinja", tmp_path / "plain")
    return folder, tmp_path / "plain"


def run(*arguments):
    """What a verb prints, in this process."""
    result = CliRunner().invoke(typer.main.get_command(app), [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_verbs_say_of_a_quantised_folder_what_they_say_of_the_plain_one(chat, tmp_path):
    folder, plain = chat
    (tmp_path / "text.txt").write_text("def read(path):\n    return path\n" * 9)
    score = [json.loads(run("score", place, tmp_path / "text.txt", "--json"))["total"]["bits"] for place in chat]
    assert score[0] == score[1]
    generated = [run("generate", place, "import os", "--max-tokens", 5, "--temperature", 0) for place in chat]
    assert generated[0] == generated[1]
    assert json.loads(run("cost", folder, "--json"))["models"][0]["parameters"]
    assert load_tokenizer(folder).encode("import") == load_tokenizer(plain).encode("import")


def test_inspect_names_the_format_and_counts_what_is_stored():
    found = json.loads(run("inspect", FOLDERS / "ct-int4-group", "--json"))
    assert found["stored_dtypes"] == {"BF16": 7, "int4": 7} and found["dtype"] == "bfloat16"
    text = run("inspect", FOLDERS / "ct-int4-group")
    assert "quantised           compressed-tensors pack-quantized (int4); dequantised to bfloat16" in text


def test_one_line_says_format_number_dtype_and_memory(caplog):
    with caplog.at_level(logging.INFO, "hyla.checkpoints"):
        load_model(FOLDERS / "gptq-int4")
    said = [record.getMessage() for record in caplog.records if "dequantised" in record.getMessage()]
    assert len(said) == 1
    assert "GPTQ, 4 bits, groups of 16 inputs: 7 weights are dequantised to bfloat16" in said[0]
    assert "20,480 bytes of memory for 7,744 stored ones" in said[0]


def test_scales_of_activations_and_of_the_cache_are_left_out_with_a_line(caplog):
    load_model(FOLDERS / "modelopt-fp8")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1 and "ignored 7 tensors: how other engines round activations" in said[0]


@pytest.mark.parametrize("name", ["ct-int4-group", "gptq-int4", "bnb-nf4", "modelopt-nvfp4"])
def test_it_is_saved_plain_and_holds_the_same(name, tmp_path):
    model = load_model(FOLDERS / name)
    published = json.loads((FOLDERS / name / "config.json").read_text())
    save_model(model, tmp_path / "plain", hf_config=published)
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    names = set(load_file(tmp_path / "plain" / "model.safetensors"))
    assert all(name.endswith(".weight") for name in names)
    first, second = weights_of(model), weights_of(load_model(tmp_path / "plain"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_config_inside_the_language_models_part_is_read_and_not_saved(tmp_path):
    from hyla.models.formats.registry import family_of
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    family = family_of("qwen3_5")
    save_model(initialize(Model(family.tiny), 0), tmp_path / "m")
    write_folder(tmp_path / "m", tmp_path / "plain", None, lambda name: "ct-w8a8" if "proj" in name else None)
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    top = {key: config.pop(key) for key in ("architectures", "model_type")}
    nested = {**top, family.text_key: {**config, "quantization_config": CASES["ct-w8a8"][2]}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(nested))
    model = load_model(tmp_path / "m")
    save_model(model, tmp_path / "again", hf_config=nested)
    assert "quantization_config" not in (tmp_path / "again" / "config.json").read_text()
    first, second = weights_of(model), weights_of(load_model(tmp_path / "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("modelopt-nvfp4", "hf_quant_config.json", None),
        ("gptq-int4", "quantize_config.json", {"bits": 4, "group_size": 16, "sym": True, "desc_act": False}),
        ("awq-int4", "quant_config.json", {"w_bit": 4, "q_group_size": 16, "zero_point": True, "version": "GEMM"}),
    ],
)
def test_the_file_that_a_writer_puts_beside_the_config_is_read(name, file, said, tmp_path):
    folder = copied(tmp_path, name)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    if said is not None:
        (folder / file).write_text(json.dumps(said))
    first, second = weights_of(load_model(folder)), weights_of(load_model(FOLDERS / name))
    assert all(torch.equal(first[key], second[key]) for key in first)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match="is of a quantised weight, of which nothing is said"):
        load_model(folder)


def test_an_empty_order_of_groups_is_none(tmp_path):
    folder = copied(tmp_path, "gptq-int4")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".g_idx")]:
        tensors[name] = torch.zeros(0, dtype=torch.int32)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")
    first, second = weights_of(load_model(folder)), weights_of(load_model(FOLDERS / "gptq-int4"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "packing"),
    [
        ("gptq-int4", "auto_round:auto_gptq"),
        ("gptq-int4", None),
        ("awq-int4", "auto_round:auto_awq"),
    ],
)
def test_auto_round_in_the_packings_of_others(name, packing, tmp_path):
    folder = copied(tmp_path, name)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "auto-round",
        "packing_format": packing,
        "bits": 4,
        "group_size": 16,
        "sym": True,
        "data_type": "int",
        "autoround_version": "0.9.0",
        "iters": 0,
        "model_free": True,
        "extra_config": {"model.norm": {"bits": 16, "data_type": "float"}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    first, second = weights_of(load_model(folder)), weights_of(load_model(FOLDERS / name))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_old_key_of_compressed_tensors_is_read(tmp_path):
    folder = copied(tmp_path, "ct-w8a8")
    config = json.loads((folder / "config.json").read_text())
    said = config.pop("quantization_config")
    del said["quant_method"]
    (folder / "config.json").write_text(json.dumps({**config, "compression_config": said}))
    first, second = weights_of(load_model(folder)), weights_of(load_model(FOLDERS / "ct-w8a8"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_new_weights_come_from_a_quantised_folder_and_damage_changes_nothing(tmp_path):
    wanted = load_model(FOLDERS / "gptq-int4")
    model = load_model(FOLDERS / "modelopt-fp8").pack()
    before = weights_of(model)
    damaged = copied(tmp_path, "gptq-int4")
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.scales"][1, 2] = float("nan")
    (damaged / "model.safetensors").unlink()
    save_file(tensors, damaged / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_proj\.scales holds numbers that are not finite"):
        WeightUpdate(model, damaged, device=CPU, pack=True)
    with pytest.raises(CheckpointError, match=r"is of a quantised weight"):
        WeightUpdate(model, FOLDERS / "gptq-int4" / "model.safetensors", device=CPU, pack=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(model).items())
    with WeightUpdate(model, FOLDERS / "gptq-int4", device=CPU, pack=True, whole=True) as update:
        update.apply()
    after = weights_of(wanted)
    assert all(torch.equal(tensor, after[name].to(tensor.dtype)) for name, tensor in weights_of(model).items())


def test_configs_of_quantised_folders_are_read_without_torch():
    code = f"""
import sys
from pathlib import Path
from hyla.checkpoints.opening import read_config
titles = [read_config(folder).packing.title for folder in sorted(Path({str(FOLDERS)!r}).iterdir())]
assert len(set(titles)) >= 14 and "torch" not in sys.modules, titles
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]


def test_a_folder_of_float16_is_read_in_bfloat16_unless_asked_otherwise():
    assert read_config(FOLDERS / "awq-int4").published["dtype"] == "float16"
    model = load_model(FOLDERS / "awq-int4")
    assert model.dtype == torch.bfloat16
    assert NamedWeights(model).read("norm.weight").dtype == torch.float32
    assert load_model(FOLDERS / "awq-int4", dtype="float32").embed.weight.dtype == torch.float32
