"""What is particular to DeepSeek checkpoints: the layers behind the last one, and what stays fp32."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, save_model
from hyla.errors import CheckpointError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model


def saved(folder, dtype=torch.float32):
    save_model(cast(initialize(Model(family_of("deepseek_v32").tiny), 3), dtype), folder)
    return folder / "model.safetensors"


def add(file, name):
    save_file({**load_file(file), name: torch.zeros(3)}, file, metadata={"format": "pt"})


def test_a_prediction_layer_that_the_config_does_not_count_is_left_out_and_reported(tmp_path, caplog):
    file = saved(tmp_path)
    published = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(published | {"num_nextn_predict_layers": 1}))
    with caplog.at_level(logging.WARNING):
        model = load_model(tmp_path)
    assert "config.json does not count this multi-token prediction module" in caplog.text
    assert len(model.mtp) == 1
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("model.layers.4.")}
    save_model(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == kept.keys() and all(torch.equal(again[name], kept[name]) for name in kept)


def test_layers_past_the_last_one_that_are_no_prediction_layers_are_an_error(tmp_path):
    add(saved(tmp_path), "model.layers.5.mlp.up_proj.weight")
    with pytest.raises(CheckpointError, match=r"layers\.5\.mlp"):
        load_model(tmp_path)


def test_a_stray_tensor_inside_the_stack_is_not_taken_for_it(tmp_path):
    add(saved(tmp_path), "model.layers.2.eh_proj.weight")
    with pytest.raises(CheckpointError, match=r"layers\.2\.eh_proj"):
        load_model(tmp_path)


def test_the_indexer_s_weights_and_norm_stay_fp32_in_a_bf16_model(tmp_path):
    file = saved(tmp_path, torch.bfloat16)
    wide = {name for name, tensor in load_file(file).items() if tensor.dtype == torch.float32 and "layers.0" in name}
    indexer = "model.layers.0.self_attn.indexer."
    assert wide == {indexer + name for name in ("weights_proj.weight", "k_norm.weight", "k_norm.bias")}
    loaded = load_model(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert loaded.sublayers[0].module.indexer.weights.dtype == torch.float32
