"""MiMo-V2-Flash against transformers (eager: its only attention with sinks), and MiMo-V2.5-Pro through its layout."""

import json

import pytest
import torch
from parity_oracle import (
    check_decoded,
    check_decoding,
    check_parity,
    check_way_back,
    continued_prompt,
    draw,
    error,
    make_oracle,
    oracle_decoded,
    oracle_logits,
    prompts_for,
)
from safetensors.torch import load_file, save_file

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "v_head_dim": 14,
    "sliding_window": 70,
    "n_routed_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 22,
    "eos_token_id": 2,
}
GROUPED = {
    **FIRST,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 18,
    "v_head_dim": 26,
    "sliding_window": 129,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "mlp_layer_types": ["sparse", "dense", "sparse", "sparse"],
    "n_routed_experts": 12,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.7,
    "attention_value_scale": 0.5,
}
SHORT_WINDOW = {
    **FIRST,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "sliding_attention"],
    "norm_topk_prob": False,
    "attention_value_scale": None,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.75},
    },
}


def flash_config(keys):
    from transformers import MiMoV2FlashConfig

    return MiMoV2FlashConfig(**keys, attn_implementation="eager")


@pytest.mark.parametrize("number, keys", list(enumerate([FIRST, GROUPED, SHORT_WINDOW])))
def test_mimo_v2_flash_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    check_parity(flash_config(keys), tmp_path, seed=number)


def test_a_mimo_v2_flash_model_made_here_scores_the_same_in_transformers(tmp_path):
    check_way_back(Model(family_of("mimo_v2_flash").tiny), tmp_path / "m")
    names = set(load_file(tmp_path / "m" / "model.safetensors"))
    assert "model.layers.1.self_attn.attention_sink_bias" in names
    assert "model.layers.0.self_attn.attention_sink_bias" not in names


def test_sinks_and_the_router_s_bias_stay_fp32_in_a_bf16_load(tmp_path):
    oracle = make_oracle(flash_config(FIRST), tmp_path / "theirs")
    model = load_model(tmp_path / "theirs", dtype=torch.bfloat16)
    sinks, bias = model.sublayers[2].module.sinks, model.sublayers[3].module.router_bias
    assert (sinks.dtype, bias.dtype, model.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    assert torch.equal(sinks.double(), oracle.model.layers[1].self_attn.sinks)


def test_the_window_of_transformers_in_a_file_of_the_hub_is_the_option_that_excludes_a_row_s_own_key(tmp_path):
    """Of sliding_window_size = 20, transformers makes 21 keys."""
    oracle = make_oracle(flash_config({**FIRST, "sliding_window_size": 20}), tmp_path / "theirs")
    prompts = prompts_for(101, lengths=(65,))
    expected = oracle_logits(oracle, prompts)
    file = tmp_path / "theirs" / "config.json"
    keys = json.loads(file.read_text())
    errors = {}
    for excludes in (True, False):
        keys |= {"sliding_window": 20, "sliding_window_size": 20, "sliding_window_excludes_self": excludes}
        file.write_text(json.dumps(keys))
        with torch.no_grad():
            errors[excludes] = error(load_model(tmp_path / "theirs").logits(prompts), expected)
    assert errors[True] <= 1e-4 < 1e-2 < errors[False]


def as_pro_shards(q, k, v, shards: int) -> torch.Tensor:
    """The published matrix, shard by shard: the query, key and value heads of tensor-parallel rank r."""
    ranks = []
    for rank in range(shards):
        for matrix in (q, k, v):
            rows = matrix.shape[0] // shards
            ranks.append(matrix[rank * rows : (rank + 1) * rows])
    return torch.cat(ranks)


def test_mimo_v2_gives_the_logits_of_the_flash_layout_and_its_tensors_back(tmp_path):
    """transformers -> flash folder -> the same weights in Pro's layout, written by hand -> hyla -> the same file."""
    keys = {**FIRST, "num_attention_heads": 8, "num_key_value_heads": 2}
    oracle = make_oracle(flash_config(keys), tmp_path / "flash")
    theirs = load_file(tmp_path / "flash" / "model.safetensors")
    for layer in range(3):
        name = f"model.layers.{layer}.self_attn."
        parts = [theirs.pop(f"{name}{letter}_proj.weight") for letter in "qkv"]
        theirs[f"{name}qkv_proj.weight"] = as_pro_shards(*parts, shards=2)
    (tmp_path / "pro").mkdir()
    save_file(theirs, tmp_path / "pro" / "model.safetensors", metadata={"format": "pt"})
    config = family_of("mimo_v2_flash").config_from_hf(json.loads((tmp_path / "flash" / "config.json").read_text()))
    published = family_of("mimo_v2").config_to_hf(config.model_copy(update={"family": "mimo_v2"}))
    (tmp_path / "pro" / "config.json").write_text(json.dumps(published))
    model = load_model(tmp_path / "pro")
    assert model.config.family == "mimo_v2"
    prompts = prompts_for(101, lengths=(1, 65, 200))
    with torch.no_grad():
        assert error(model.logits(prompts), oracle_logits(oracle, prompts)) <= 1e-4
    ids = continued_prompt(101)
    check_decoded(model, ids, oracle_decoded(oracle, ids))
    save_model(model.pack(), tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.items())


def test_window_layers_with_more_key_heads_have_as_many_shards_as_full_layers(tmp_path):
    model = initialize(Model(family_of("mimo_v2").tiny), 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name, parameter, generator))
    save_model(model, tmp_path / "m")
    window = model.sublayers[2].module
    parts = [linear.weight.detach() for linear in (window.q, window.k, window.v)]
    saved = load_file(tmp_path / "m" / "model.safetensors")["model.layers.1.self_attn.qkv_proj.weight"]
    assert torch.equal(saved, as_pro_shards(*parts, shards=2))


def test_decoded_tokens_of_mimo_v2_flash_have_the_logits_of_transformers(tmp_path):
    check_decoding(flash_config({**FIRST, "sliding_window": 40}), tmp_path)
