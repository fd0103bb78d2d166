"""Qwen2 against transformers."""

import pytest
from parity_oracle import check_decoding, check_parity, check_way_back, same_tensors

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

COMMON = {"vocab_size": 101, "max_position_embeddings": 512, "num_hidden_layers": 3}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e6}
CONFIGS = [
    {"hidden_size": 44, "intermediate_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20},
    {"hidden_size": 60, "intermediate_size": 33, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 14,
     "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_parameters": YARN},
    {"hidden_size": 36, "intermediate_size": 90, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 26,
     "use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_qwen2_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number):
    from transformers import Qwen2Config

    check_parity(Qwen2Config(**COMMON, **CONFIGS[number]), tmp_path, seed=number)
    save_model(load_model(tmp_path / "theirs"), tmp_path / "again")
    assert same_tensors(tmp_path / "theirs" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_a_qwen2_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("qwen2").tiny), tmp_path / "m")


def test_decoded_tokens_of_qwen2_have_the_logits_of_transformers(tmp_path):
    from transformers import Qwen2Config

    check_decoding(Qwen2Config(**COMMON, **CONFIGS[2]), tmp_path)
