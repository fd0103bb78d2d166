"""Qwen3 MoE against transformers."""

import pytest
from parity_oracle import check_decoding, check_parity, check_way_back, same_tensors

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 44,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 22,
    "norm_topk_prob": True,
}
DENSE_FIRST = {**FIRST, "num_hidden_layers": 3, "mlp_only_layers": [0], "tie_word_embeddings": True}
NO_HEAD_DIM = {**FIRST, "hidden_size": 64, "num_key_value_heads": 3, "decoder_sparse_step": 2, "norm_topk_prob": False}
del NO_HEAD_DIM["head_dim"]


@pytest.mark.parametrize("keys, seed", [(FIRST, 20), (DENSE_FIRST, 21), (NO_HEAD_DIM, 22)])
def test_qwen3_moe_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, keys, seed):
    from transformers import Qwen3MoeConfig

    check_parity(Qwen3MoeConfig(**keys), tmp_path, seed=seed)
    save_model(load_model(tmp_path / "theirs"), tmp_path / "again")
    assert same_tensors(tmp_path / "theirs" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_a_qwen3_moe_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("qwen3_moe").tiny), tmp_path / "m")


def test_decoded_tokens_of_qwen3_moe_have_the_logits_of_transformers(tmp_path):
    from transformers import Qwen3MoeConfig

    check_decoding(Qwen3MoeConfig(**FIRST), tmp_path)
