"""Kimi Linear against transformers."""

import pytest
from parity_oracle import check_decoding, check_parity, check_way_back
from safetensors.torch import load_file

from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "kv_lora_rank": 28,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "linear_num_heads": 3,
    "linear_head_dim": 18,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "num_local_experts": 7,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "moe_intermediate_size": 22,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {
    **FIRST,
    "hidden_size": 52,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "dense", "sparse"],
    "num_local_experts": 12,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.7,
    "linear_conv_kernel_dim": 3,
}
LOW_RANK_QUERIES = {
    **FIRST,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "mlp_layer_types": ["sparse", "sparse"],
    "q_lora_rank": 12,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "linear_num_heads": 2,
    "linear_head_dim": 34,
    "norm_topk_prob": False,
}


@pytest.mark.parametrize("number, keys", list(enumerate([FIRST, GROUPED, LOW_RANK_QUERIES])))
def test_kimi_linear_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    from transformers import KimiLinearConfig

    check_parity(KimiLinearConfig(**keys), tmp_path, seed=number)


def test_dense_layers_are_written_under_the_name_of_the_hub(tmp_path):
    check_way_back(Model(family_of("kimi_linear").tiny), tmp_path / "m")
    names = set(load_file(tmp_path / "m" / "model.safetensors"))
    assert "model.layers.0.mlp.up_proj.weight" in names
    assert not any(name.startswith("model.layers.0.block_sparse_moe") for name in names)


def test_decoded_tokens_of_kimi_linear_have_the_logits_of_transformers(tmp_path):
    from transformers import KimiLinearConfig

    check_decoding(KimiLinearConfig(**FIRST), tmp_path)
