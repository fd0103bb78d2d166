"""Llama against transformers."""

import pytest
from parity_oracle import check_decoding, check_parity, check_way_back, same_tensors

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

COMMON = {"vocab_size": 101, "max_position_embeddings": 512, "num_hidden_layers": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = [
    {"hidden_size": 42, "intermediate_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20,
     "attention_bias": True, "mlp_bias": True},
    {"hidden_size": 60, "intermediate_size": 33, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 14,
     "attention_bias": True, "tie_word_embeddings": True,
     "rope_parameters": {**LLAMA3, "rope_theta": 5e5, "original_max_position_embeddings": 64}},
    {"hidden_size": 40, "intermediate_size": 90, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 26,
     "mlp_bias": True, "rms_norm_eps": 1e-5, "rope_parameters": {**YARN, "rope_theta": 2e4}},
    {"hidden_size": 42, "intermediate_size": 55, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16,
     "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_llama_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number):
    from transformers import LlamaConfig

    check_parity(LlamaConfig(**COMMON, **CONFIGS[number]), tmp_path, seed=number)
    save_model(load_model(tmp_path / "theirs"), tmp_path / "again")
    assert same_tensors(tmp_path / "theirs" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_a_llama_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("llama").tiny), tmp_path / "m")


def test_decoded_tokens_of_llama_have_the_logits_of_transformers(tmp_path):
    from transformers import LlamaConfig

    check_decoding(LlamaConfig(**COMMON, **CONFIGS[1]), tmp_path)
