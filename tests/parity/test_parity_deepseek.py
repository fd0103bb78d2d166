"""DeepSeek-V3 and V3.2 against transformers."""

import pytest
import torch
from parity_oracle import (
    TOLERANCE,
    check_decoding,
    check_parity,
    check_way_back,
    error,
    make_oracle,
    oracle_logits,
    prompts_for,
    without_mtp,
)

from hyla.checkpoints import load_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
}
FIRST = {
    "vocab_size": 101,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "q_lora_rank": 22,
    "kv_lora_rank": 28,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "first_k_dense_replace": 1,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 26,
    "max_position_embeddings": 512,
    "rope_parameters": YARN,
}
UNSCALED = {
    **FIRST,
    "hidden_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "n_routed_experts": 7,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.7,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
UNEVEN = {
    **FIRST,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 0,
    "norm_topk_prob": False,
    "qk_rope_head_dim": 10,
    "rope_parameters": {**YARN, "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.4, "truncate": False},
}
HALVES = {"q_lora_rank": None, "rope_interleave": False}
V3 = [FIRST, {**UNSCALED, **HALVES}, UNEVEN]
INDEXER = {"index_n_heads": 24, "index_head_dim": 18, "index_topk": 24}
V32 = [
    {**FIRST, **INDEXER},
    {**UNSCALED, **INDEXER, "index_topk": 70, "index_head_dim": 6},
    {**UNEVEN, **INDEXER, "index_n_heads": 33, "index_topk": 250},
]


@pytest.mark.parametrize("number, keys", list(enumerate(V3)))
def test_deepseek_v3_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    from transformers import DeepseekV3Config

    check_parity(DeepseekV3Config(**keys), tmp_path, seed=number)


@pytest.mark.parametrize("number, keys", list(enumerate(V32)))
def test_deepseek_v32_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    from transformers import DeepseekV32Config

    check_parity(DeepseekV32Config(**keys), tmp_path, seed=number)


@pytest.mark.parametrize("family", ["deepseek_v3", "deepseek_v32"])
def test_a_model_made_here_loads_in_transformers(tmp_path, family):
    check_way_back(Model(without_mtp(family_of(family).tiny)), tmp_path / "m")


def test_one_selected_key_more_or_less_is_seen(tmp_path):
    """The mutation check: the comparisons above must be able to fail."""
    from transformers import DeepseekV32Config

    oracle = make_oracle(DeepseekV32Config(**V32[0]), tmp_path)
    prompts = prompts_for(oracle.config.vocab_size)
    model = load_model(tmp_path)
    with torch.no_grad():
        want = oracle_logits(oracle, prompts)
        for count in (INDEXER["index_topk"] - 1, INDEXER["index_topk"] + 1):
            for sublayer in model.sublayers[::2]:
                sublayer.module.indexer.num_selected = count
            assert error(model.logits(prompts), want) > 10 * TOLERANCE


@pytest.mark.parametrize("name, keys", [("DeepseekV3Config", V3[0]), ("DeepseekV32Config", V32[0])])
def test_decoded_tokens_of_deepseek_have_the_logits_of_transformers(tmp_path, name, keys):
    import transformers

    check_decoding(getattr(transformers, name)(**keys), tmp_path)
