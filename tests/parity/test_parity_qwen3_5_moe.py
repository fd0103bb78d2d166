"""Qwen3.5 mixture of experts against transformers: the text tower alone and inside its multimodal folder."""

import pytest
import torch
from parity_oracle import (
    TOLERANCE,
    check_decoding,
    check_parity,
    check_way_back,
    draw,
    error,
    oracle_logits,
    prompts_for,
    same_tensors,
)
from safetensors.torch import load_file

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
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
    "linear_conv_kernel_dim": 2,
    "num_experts": 4,
    "tie_word_embeddings": True,
}
THIRD = {
    **FIRST,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 8,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 1,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize("number, keys", list(enumerate([FIRST, SECOND, THIRD])))
def test_qwen3_5_moe_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    from transformers.models.qwen3_5_moe import Qwen3_5MoeTextConfig

    check_parity(Qwen3_5MoeTextConfig(**keys), tmp_path, seed=number)
    # transformers stores the experts one by one, the published checkpoints (and Hyla) all in one tensor.
    assert "mlp.experts.0.gate_proj" in "".join(load_file(tmp_path / "theirs" / "model.safetensors"))
    save_model(load_model(tmp_path / "ours"), tmp_path / "again")
    assert same_tensors(tmp_path / "ours" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_a_qwen3_5_moe_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("qwen3_5_moe").tiny), tmp_path / "m")


def test_the_text_tower_of_a_multimodal_folder_gives_the_same_logits(tmp_path):
    from transformers import Qwen3_5MoeForConditionalGeneration
    from transformers.models.qwen3_5_moe import Qwen3_5MoeConfig

    rope = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.5}
    text = {**FIRST, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
    text["rope_parameters"] = {**rope, "mrope_section": [2, 2, 2], "mrope_interleaved": True}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2, "out_hidden_size": 40}
    vision |= {"num_position_embeddings": 16, "patch_size": 4}
    config = Qwen3_5MoeConfig(
        text_config=text, vision_config=vision, attn_implementation="eager", experts_implementation="eager"
    )
    oracle = Qwen3_5MoeForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            parameter.copy_(draw(name, parameter, generator))
    oracle.save_pretrained(tmp_path / "m")
    prompts = prompts_for(101, lengths=(1, 130))
    model = load_model(tmp_path / "m")
    with torch.no_grad():
        assert error(model.logits(prompts), oracle_logits(oracle.double(), prompts)) <= TOLERANCE


def test_decoded_tokens_of_qwen3_5_moe_have_the_logits_of_transformers(tmp_path):
    from transformers.models.qwen3_5_moe import Qwen3_5MoeTextConfig

    check_decoding(Qwen3_5MoeTextConfig(**FIRST), tmp_path)
