"""Ling-3.0 against transformers."""

import pytest
from parity_oracle import check_decoding, check_parity, check_way_back, without_mtp

from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 18,
    "kv_lora_rank": 28,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "layer_group_size": 4,
    "first_k_dense_replace": 1,
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 22,
    "num_mtp_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {
    **FIRST,
    "hidden_size": 52,
    "num_hidden_layers": 5,
    "layer_group_size": 2,
    "num_local_experts": 12,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.7,
    "short_conv_kernel_size": 3,
    "kda_lower_bound": -2.5,
    "rope_theta": 500.0,
}
UNBOUNDED = {
    **FIRST,
    "num_hidden_layers": 2,
    "layer_types": ["full_attention", "linear_attention"],
    "mlp_layer_types": ["sparse", "sparse"],
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 34,
    "norm_topk_prob": False,
    "kda_safe_gate": False,
}


@pytest.mark.parametrize("keys, seed", [(FIRST, 5), (GROUPED, 11), (UNBOUNDED, 2)])
def test_ling_3_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, keys, seed):
    from transformers import BailingHybridConfig

    check_parity(BailingHybridConfig(**keys), tmp_path, seed=seed)


def test_a_model_made_here_is_read_by_transformers(tmp_path):
    check_way_back(Model(without_mtp(family_of("bailing_hybrid_3").tiny)), tmp_path / "m")


def test_decoded_tokens_of_ling_3_have_the_logits_of_transformers(tmp_path):
    from transformers import BailingHybridConfig

    check_decoding(BailingHybridConfig(**FIRST), tmp_path)
