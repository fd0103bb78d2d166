"""MiniMax-M2 against transformers."""

import logging

import pytest
import torch
from parity_oracle import check_decoding, check_parity, check_way_back, make_oracle, same_tensors
from safetensors.torch import load_file

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 44,
    "intermediate_size": 22,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "rotary_dim": 10,
    "num_local_experts": 7,
    "num_experts_per_tok": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FRACTION = {**FIRST, "num_hidden_layers": 3, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 28}
FRACTION["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5}
del FRACTION["rotary_dim"]
ALL_EXPERTS = {**FIRST, "hidden_size": 52, "num_key_value_heads": 3, "rotary_dim": 20, "num_experts_per_tok": 7}

YARN = {**FIRST, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
YARN["rope_parameters"] |= {"factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("number, keys", list(enumerate([FIRST, FRACTION, ALL_EXPERTS, YARN])))
def test_minimax_m2_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    from transformers import MiniMaxM2Config

    check_parity(MiniMaxM2Config(**keys), tmp_path, seed=number)
    save_model(load_model(tmp_path / "theirs"), tmp_path / "again")
    assert same_tensors(tmp_path / "theirs" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_a_minimax_m2_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("minimax_m2").tiny), tmp_path / "m")
    names = set(load_file(tmp_path / "m" / "model.safetensors"))
    assert "model.layers.0.block_sparse_moe.e_score_correction_bias" in names
    assert "model.layers.1.block_sparse_moe.experts.4.w3.weight" in names


def test_the_router_s_bias_stays_fp32_in_a_bf16_load(tmp_path):
    from transformers import MiniMaxM2Config

    oracle = make_oracle(MiniMaxM2Config(**FIRST), tmp_path / "theirs")
    model = load_model(tmp_path / "theirs", dtype=torch.bfloat16)
    bias = model.sublayers[1].module.router_bias
    assert bias.dtype == torch.float32
    assert torch.equal(bias.double(), oracle.model.layers[0].mlp.e_score_correction_bias)


def test_promised_mtp_modules_without_tensors_are_reported(caplog):
    family = family_of("minimax_m2")
    with caplog.at_level(logging.WARNING, logger="hyla.models"):
        promised = {"use_mtp": True, "num_mtp_modules": 3, "mtp_transformer_layers": 1}
        assert family.config_from_hf({**family.tiny_config, **promised}) == family.tiny
    assert "promises 3 multi-token prediction modules" in caplog.text


def test_decoded_tokens_of_minimax_m2_have_the_logits_of_transformers(tmp_path):
    from transformers import MiniMaxM2Config

    check_decoding(MiniMaxM2Config(**FIRST), tmp_path)
