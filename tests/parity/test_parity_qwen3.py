"""Qwen3 against transformers."""

import pytest
from parity_oracle import check_decoding, check_parity, check_way_back, same_tensors

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

COMMON = {"vocab_size": 101, "max_position_embeddings": 512, "num_hidden_layers": 2}
CONFIGS = [
    {"hidden_size": 44, "intermediate_size": 72, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20},
    {"hidden_size": 56, "intermediate_size": 33, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 14},
    {
        "hidden_size": 36,
        "intermediate_size": 90,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 26,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
]


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_qwen3_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number):
    from transformers import Qwen3Config

    check_parity(Qwen3Config(**COMMON, **CONFIGS[number]), tmp_path, seed=number)
    load = load_model(tmp_path / "theirs")
    save_model(load, tmp_path / "again")
    assert same_tensors(tmp_path / "theirs" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_a_qwen3_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("qwen3").tiny), tmp_path / "m")


def test_decoded_tokens_of_qwen3_have_the_logits_of_transformers(tmp_path):
    from transformers import Qwen3Config

    check_decoding(Qwen3Config(**COMMON, **CONFIGS[0]), tmp_path)
