"""Qwen3-Next against transformers."""

import pytest
from parity_oracle import check_decoding, check_parity, check_way_back, same_tensors

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

COMMON = {"vocab_size": 101, "max_position_embeddings": 512}
FIRST = {
    "hidden_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 10,
    "linear_value_head_dim": 14,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 22,
    "shared_expert_intermediate_size": 30,
}
SECOND = {
    **FIRST,
    "hidden_size": 52,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "linear_attention", "linear_attention"],
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 3,
    "linear_key_head_dim": 18,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 3,
    "mlp_only_layers": [1],
    "intermediate_size": 34,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
}
THIRD = {
    **FIRST,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 22,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "norm_topk_prob": False,
    "decoder_sparse_step": 2,
    "intermediate_size": 26,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("number, keys", list(enumerate([FIRST, SECOND, THIRD])))
def test_qwen3_next_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    from transformers import Qwen3NextConfig

    check_parity(Qwen3NextConfig(**COMMON, **keys), tmp_path, seed=number)
    save_model(load_model(tmp_path / "theirs"), tmp_path / "again")
    assert same_tensors(tmp_path / "theirs" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_a_qwen3_next_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("qwen3_next").tiny), tmp_path / "m")


def test_decoded_tokens_of_qwen3_next_have_the_logits_of_transformers(tmp_path):
    from transformers import Qwen3NextConfig

    check_decoding(Qwen3NextConfig(**COMMON, **FIRST), tmp_path)
