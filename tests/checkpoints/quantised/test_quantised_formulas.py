"""Every format against its definition: a quantised folder is the folder of the numbers that it stands for."""

import re

import pytest
import torch
from quantised_writing import CASES, compressed, write_folder
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, open_checkpoint, save_model
from hyla.checkpoints.quantised import numbers
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_hidden_layers": 2,
}
PLAIN = r"embed|lm_head|conv|layers\.1\.mlp\.up_proj|A_log|dt_bias"
"""Modules that no writer quantised: of these there is one in a layer whose others are."""
PROMPTS = [[5, 1, 60, 33] * 9, [7]]
FAMILIES = {
    "kimi_linear": {},
    "qwen3_next": {},
    "qwen3_5_moe": {},
    "qwen3_moe": {},
    "deepseek_v3": {},
    "minimax_m2": {},
    "nemotron_h": {},
    "mimo_v2": {},
    "bailing_moe_v2": {},
}


def make_mixed(tmp_path, quantization, case_of, name="qwen3", sizes=SIZES):
    """A quantised folder, and the plain one that it stands for."""
    family = family_of(name)
    config = family.config_from_hf({**family.tiny_config, **sizes})
    save_model(initialize(Model(config), 3, std=0.1), tmp_path / "m")
    write_folder(tmp_path / "m", tmp_path / "plain", quantization, case_of)
    return tmp_path / "m", tmp_path / "plain"


def make(tmp_path, case, name="qwen3", sizes=SIZES, plain=PLAIN):
    return make_mixed(tmp_path, CASES[case][2], lambda tensor: None if re.search(plain, tensor) else case, name, sizes)


def weights_of(model):
    named = NamedWeights(model)
    return {name: named.read(name) for name in named.shapes}


def assert_same(first, second):
    first, second = weights_of(first), weights_of(second)
    assert [name for name in second if not torch.equal(first[name], second[name])] == []
    assert {name: tensor.dtype for name, tensor in first.items()} == {n: tensor.dtype for n, tensor in second.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_quantised_folder_is_the_folder_of_its_numbers(case, tmp_path):
    folder, plain = make(tmp_path, case)
    for dtype in ("float32", "bfloat16"):  # rounded once
        model, expected = load_model(folder, dtype=dtype), load_model(plain, dtype=dtype)
        assert_same(model, expected)
        with torch.inference_mode():
            assert torch.equal(model.logits(PROMPTS)[0], expected.logits(PROMPTS)[0])
    assert_same(load_model(folder), load_model(plain))  # the embedding is stored in float32


@pytest.mark.parametrize("case", ["bnb-nf4", "ct-w8a8"])
@pytest.mark.parametrize("name", FAMILIES)
def test_fused_and_stacked_matrices_of_families_are_decoded_before_they_are_placed(name, case, tmp_path):
    folder, plain = make(tmp_path, case, name, FAMILIES[name])
    with open_checkpoint(folder).tensors() as source:
        kinds = {source.stored_as(name) for name in source}
    assert kinds & {"nf4", "int8"}
    assert_same(load_model(folder, dtype="float32"), load_model(plain, dtype="float32"))


def unfused(folder):
    """Qwen3.5's experts one by one, as quantising tools leave them."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".experts." in name and tensors[name].dim() == 3]:
        whole, place = tensors.pop(name), name.rpartition(".")[0]
        for number, expert in enumerate(whole):
            parts = zip(("gate", "up"), expert.chunk(2)) if "gate_up" in name else [("down", expert)]
            tensors |= {f"{place}.{number}.{part}_proj.weight": matrix.clone() for part, matrix in parts}
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("case", ["bnb-nf4-nested", "ct-w8a8"])
def test_experts_that_were_taken_apart_for_quantising_are_put_together(case, tmp_path):
    family = family_of("qwen3_5_moe")
    save_model(initialize(Model(family.tiny), 3, std=0.1), tmp_path / "m")
    unfused(tmp_path / "m")
    write_folder(tmp_path / "m", tmp_path / "plain", CASES[case][2], lambda n: case if "experts." in n else None)
    with open_checkpoint(tmp_path / "m").tensors() as source:
        assert sum(source.stored_as(name) in ("nf4", "int8") for name in source) >= 12
    assert_same(load_model(tmp_path / "m", dtype="float32"), load_model(tmp_path / "plain", dtype="float32"))


def test_experts_in_gptq_and_awq_are_stacked(tmp_path):
    sizes = {"hidden_size": 64, "moe_intermediate_size": 32, "head_dim": 32}
    for case in ("gptq-ordered", "awq", "ct-int4-asymmetric", "modelopt-nvfp4"):
        (tmp_path / case).mkdir()
        folder, plain = make(tmp_path / case, case, "qwen3_moe", sizes, plain=PLAIN + r"|mlp\.gate\.")
        with open_checkpoint(folder).tensors() as source:
            assert sum("experts" in name and source.dtype(name) != source.stored_as(name) for name in source) >= 12
        assert_same(load_model(folder, dtype="float32"), load_model(plain, dtype="float32"))


def test_schemes_of_single_layers_are_told_apart_by_their_tensors(tmp_path):
    parts = {"ct-int4": "self_attn", "ct-int8-channel": "down_proj", "ct-fp8": "gate_proj|up_proj"}
    schemes = [
        {**CASES[case][2]["config_groups"]["group_0"], "targets": [f"re:.*({pattern})"]}
        for case, pattern in parts.items()
    ]

    def case_of(name):
        return next((case for case, pattern in parts.items() if re.search(pattern, name)), None)

    folder, plain = make_mixed(tmp_path, compressed("mixed-precision", *schemes), case_of)
    with open_checkpoint(folder).tensors() as source:
        assert {source.stored_as(name) for name in source} == {"int4", "int8", "FP8", "F32"}
    assert_same(load_model(folder, dtype="float32"), load_model(plain, dtype="float32"))


def test_mixed_precision_of_modelopt(tmp_path):
    layers = {"model.layers.0.mlp.up_proj": {"quant_algo": "NVFP4", "group_size": 16}, "x": {"quant_algo": "FP8"}}
    said = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    plain_or = {"mlp": "modelopt-nvfp4", "self_attn": "modelopt-fp8"}

    def case_of(name):
        return next((case for part, case in plain_or.items() if part in name), None)

    folder, plain = make_mixed(tmp_path, said, case_of)
    with open_checkpoint(folder).tensors() as source:
        assert {source.stored_as(name) for name in source} == {"NVFP4", "FP8", "F32"}
    assert_same(load_model(folder, dtype="float32"), load_model(plain, dtype="float32"))


@pytest.mark.parametrize("case", CASES)
def test_float32_numbers_never_exist_as_a_whole(case, tmp_path, monkeypatch):
    folder, _ = make(tmp_path, case)
    copied, copy = [], torch.Tensor.copy_

    def recorded(into, numbers, *args):
        copied.append(numbers.numel())
        return copy(into, numbers, *args)

    monkeypatch.setattr(numbers, "PIECE", 64)
    with open_checkpoint(folder).tensors(torch.bfloat16) as source:
        monkeypatch.setattr(torch.Tensor, "copy_", recorded)
        found = source.tensor("model.layers.0.mlp.gate_proj.weight")
    is_flat = case.startswith(("bnb-nf4", "bnb-fp4"))  # pieces of others are of at least 32 rows
    assert sum(copied) == found.numel() == 160 * 64 and max(copied) == (64 if is_flat else 32 * 64)


@pytest.mark.parametrize("case", ["gptq-ordered", "awq", "ct-int4-asymmetric", "ct-fp8-block", "bnb-nf4-nested"])
def test_numbers_do_not_depend_on_the_pieces_in_which_they_are_decoded(case, tmp_path, monkeypatch):
    folder, _ = make(tmp_path, case)
    whole = load_model(folder, dtype="float32")
    monkeypatch.setattr(numbers, "PIECE", 64)
    assert_same(load_model(folder, dtype="float32"), whole)
