"""Ling 2.0, Ring-linear 2.0 and Ling 2.5: the publishers' own logits, and an independent float64 reference."""

import json
from pathlib import Path

import pytest
import torch
from lightning_reference import bailing, bailing_steps
from parity_oracle import DECODED, TOLERANCE, check_decoded, continued_prompt, draw, error, prompts_for, same_tensors
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, save_model
from hyla.errors import CheckpointError
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model
from hyla.ops.batch import Batch

GOLDEN = Path(__file__).parent / "golden_ling25"
"""A tiny Ling-2.5 folder with published tensor names, and logits that the publishers' modelling code (Ring-V2.5
repository, transformers 4.57, CPU, fp32; the lightning kernel replaced by its recurrence) computes for it."""

COMMON = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 18,
    "partial_rotary_factor": 4 / 9,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-5,
    "first_k_dense_replace": 1,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 22,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 1.7,
}
TAIL = {**COMMON, "num_hidden_layers": 5, "layer_group_size": 2, "group_norm_size": 3}
ONE_GROUP = {
    **COMMON,
    "num_hidden_layers": 3,
    "layer_group_size": 3,
    "group_norm_size": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_shared_experts": 2,
    "first_k_dense_replace": 0,
}
MLA = {"kv_lora_rank": 28, "q_lora_rank": 14, "qk_nope_head_dim": 10, "qk_rope_head_dim": 8, "v_head_dim": 12}
CONFIGS = [
    ("bailing_moe_v2", {**COMMON, "num_hidden_layers": 2}),
    ("bailing_moe_v2", {**COMMON, "num_hidden_layers": 3, "num_key_value_heads": 1, "num_shared_experts": 2}),
    ("bailing_moe_linear", TAIL),
    ("bailing_moe_linear", ONE_GROUP),
    ("bailing_moe_linear", {**TAIL, "num_hidden_layers": 4, "rope_theta": 1e6, "num_key_value_heads": 4}),
    ("bailing_hybrid", {**TAIL, **MLA}),
    ("bailing_hybrid", {**ONE_GROUP, **MLA, "v_head_dim": 7}),
    ("bailing_hybrid", {**TAIL, **MLA, "num_hidden_layers": 4, "q_lora_rank": None, "qk_nope_head_dim": 14}),
]


def drawn_folder(model_type, keys, folder, seed):
    """A folder whose weights make every term matter, written through our names; returns its tensors in float64."""
    model = Model(family_of(model_type).config_from_hf(keys))
    initialize(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name.replace("router_bias", "e_score_correction_bias"), parameter, generator))
    save_model(model, folder)
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_ling_2_5_gives_the_publishers_own_logits():
    golden = load_file(GOLDEN / "golden.safetensors")
    model = load_model(GOLDEN)
    for number in range(4):
        with torch.no_grad():
            ours = model.logits([golden[f"ids_{number}"].tolist()])
        assert error(ours, [golden[f"logits_{number}"]]) <= TOLERANCE


@pytest.mark.parametrize("schedule", ["bailing_engines", "bailing_clamped"])
def test_the_publishers_logits_refute_the_other_slope_schedules(schedule):
    published = json.loads((GOLDEN / "config.json").read_text())
    model = Model(family_of("bailing_hybrid").config_from_hf({**published, "lightning_slopes": schedule}))
    model.load_state_dict(load_model(GOLDEN).state_dict())
    golden = load_file(GOLDEN / "golden.safetensors")
    with torch.no_grad():
        assert error(model.logits([golden["ids_1"].tolist()]), [golden["logits_1"]]) > 10 * TOLERANCE


def test_the_reference_gives_the_publishers_logits_as_well():
    golden, tensors = load_file(GOLDEN / "golden.safetensors"), load_file(GOLDEN / "model.safetensors")
    config = json.loads((GOLDEN / "config.json").read_text())
    want = bailing({name: tensor.double() for name, tensor in tensors.items()}, config, golden["ids_2"])
    assert error([want], [golden["logits_2"].double()]) <= TOLERANCE


def test_a_published_folder_comes_back_bit_for_bit(tmp_path):
    save_model(load_model(GOLDEN).pack(), tmp_path / "again")
    assert same_tensors(GOLDEN / "model.safetensors", tmp_path / "again" / "model.safetensors")


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_a_bailing_model_gives_the_logits_of_the_float64_reference(tmp_path, number):
    model_type, keys = CONFIGS[number]
    tensors = drawn_folder(model_type, keys, tmp_path / "m", seed=number)
    prompts = prompts_for(keys["vocab_size"], number)
    with torch.no_grad():
        ours = load_model(tmp_path / "m").logits(prompts)
    assert error(ours, [bailing(tensors, keys, torch.tensor(ids)) for ids in prompts]) <= TOLERANCE


@pytest.mark.parametrize("number", [1, 2, 5, 7])
def test_the_prediction_modules_give_the_logits_of_the_float64_reference(tmp_path, number):
    model_type, keys = CONFIGS[number]
    keys = {**keys, "num_nextn_predict_layers": 2}
    tensors = drawn_folder(model_type, keys, tmp_path / "m", seed=number)
    model, ids = load_model(tmp_path / "m"), torch.tensor(prompts_for(keys["vocab_size"], number, (132,))[0])
    batch, ours = Batch.packed([130]), []
    with torch.no_grad():
        hidden = model.hidden(ids[:130], batch)
        for step in range(2):
            hidden = model.predict_next(ids[step + 1 :][:130], hidden.next_TD, batch, step=step)
            ours.append(model.head_logits(hidden.head_TD, step=step))
    assert error(ours, bailing_steps(tensors, keys, ids)) <= TOLERANCE


def test_a_stray_tensor_of_a_prediction_module_inside_the_stack_is_an_error(tmp_path):
    drawn_folder("bailing_hybrid", dict(family_of("bailing_hybrid").tiny_config), tmp_path / "m", seed=1)
    file = tmp_path / "m" / "model.safetensors"
    save_file(load_file(file) | {"model.layers.1.enorm.weight": torch.ones(3)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="enorm"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("number", [0, 2, 5])
def test_decoded_tokens_of_a_bailing_model_have_the_logits_of_the_float64_reference(tmp_path, number):
    model_type, keys = CONFIGS[number]
    tensors = drawn_folder(model_type, keys, tmp_path / "m", seed=number)
    ids = continued_prompt(keys["vocab_size"], number)
    check_decoded(load_model(tmp_path / "m"), ids, bailing(tensors, keys, torch.tensor(ids))[-DECODED:])


def test_decoded_tokens_of_ling_2_5_have_the_publishers_own_logits():
    golden = load_file(GOLDEN / "golden.safetensors")
    check_decoded(load_model(GOLDEN), golden["ids_3"].tolist(), golden["logits_3"][-DECODED:])
