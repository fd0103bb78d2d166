"""MiniMax-Text-01: against transformers, and against an independent float64 reference for what transformers gets wrong.

transformers 5.23 ignores `rotary_dim` and rotates whole heads, so its tiny models rotate whole heads here as well, and
the published rotation is compared with the reference alone. Its logits are taken without a cache: with one, its
positions and its chunked prefill are wrong.
"""

import json

import pytest
import torch
from lightning_reference import minimax
from parity_oracle import (
    DECODED,
    TOLERANCE,
    check_decoded,
    continued_prompt,
    draw,
    error,
    oracle_decoded,
    oracle_logits,
    prompts_for,
    same_tensors,
)
from safetensors.torch import load_file

from hyla.checkpoints import load_model, save_model
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 40,
    "intermediate_size": 22,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 14,
    "rms_norm_eps": 1e-5,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
}
FACTORS = {
    "linear_attn_alpha_factor": 1.7,
    "linear_attn_beta_factor": 0.8,
    "full_attn_alpha_factor": 1.3,
    "full_attn_beta_factor": 1.1,
    "mlp_alpha_factor": 1.5,
    "mlp_beta_factor": 0.9,
}
KINDS = ["linear_attention", "full_attention"]
CONFIGS = [
    {**FIRST, **FACTORS, "layer_types": [KINDS[n] for n in (0, 0, 1, 0)], "block_size": 32},
    {
        **FIRST,
        **FACTORS,
        "layer_types": [KINDS[n] for n in (1, 0, 0)],
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 18,
        "num_local_experts": 7,
        "num_experts_per_tok": 3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    {
        **FIRST,
        "layer_types": [KINDS[n] for n in (0, 1)],
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "hidden_size": 52,
        "rms_norm_eps": 1e-6,
    },
]
BUFFERS = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")


def made_by_transformers(keys, folder, seed):
    """A transformers model with drawn weights, saved to the folder; in float64."""
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    model = MiniMaxForCausalLM._from_config(MiniMaxConfig(**keys), attn_implementation="eager")
    model.set_experts_implementation("eager")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name, parameter, generator))
    model.save_pretrained(folder)
    return model.double().eval()


def read_by_transformers(folder):
    """A folder as transformers reads it, in float64. Its decay tables are buffers that no checkpoint has."""
    from transformers import MiniMaxForCausalLM

    model, info = MiniMaxForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    assert all(name.rsplit(".", 1)[1] in BUFFERS for name in info["missing_keys"])
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.double().eval()


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_minimax_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number):
    oracle = made_by_transformers(CONFIGS[number], tmp_path / "theirs", number)
    prompts = prompts_for(101, number)
    model = load_model(tmp_path / "theirs")
    with torch.no_grad():
        assert error(model.logits(prompts), oracle_logits(oracle, prompts)) <= TOLERANCE
    save_model(model.pack(), tmp_path / "ours")
    back = read_by_transformers(tmp_path / "ours").state_dict()
    for name, tensor in oracle.state_dict().items():
        if name.rsplit(".", 1)[1] not in BUFFERS:
            assert torch.equal(back[name], tensor), name


def test_a_minimax_model_made_here_scores_the_same_in_transformers(tmp_path):
    keys = {**family_of("minimax").tiny_config, "rotary_dim": 20}  # whole heads, as transformers rotates
    drawn_model(keys, tmp_path / "m", seed=3)
    prompts = prompts_for(97, lengths=(1, 130))
    with torch.no_grad():
        ours = load_model(tmp_path / "m").logits(prompts)
        assert error(ours, oracle_logits(read_by_transformers(tmp_path / "m"), prompts)) <= TOLERANCE


def drawn_model(keys, folder, seed):
    model = initialize(Model(family_of("minimax").config_from_hf(keys)), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw(name, parameter, generator))
    save_model(model, folder)


@pytest.mark.parametrize("rotary_dim, pattern", [(6, [0, 0, 1, 0]), (14, [1, 0, 1]), (2, [0, 1])])
def test_minimax_with_the_published_rotation_gives_the_logits_of_the_float64_reference(tmp_path, rotary_dim, pattern):
    keys = {**FIRST, "num_hidden_layers": len(pattern), "attn_type_list": pattern, "rotary_dim": rotary_dim}
    keys |= {"rope_theta": 1e4, "postnorm": True, "shared_intermediate_size": 0}
    for place, kind in enumerate(("linear_attention", "full_attention", "mlp")):
        keys |= {f"layernorm_{kind}_alpha": 1.7 - 0.2 * place, f"layernorm_{kind}_beta": 0.8 + 0.1 * place}
    drawn_model(keys, tmp_path / "m", seed=rotary_dim)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["rotary_dim"] == rotary_dim
    tensors = {name: tensor.double() for name, tensor in load_file(tmp_path / "m" / "model.safetensors").items()}
    prompts = prompts_for(101, rotary_dim)
    with torch.no_grad():
        ours = load_model(tmp_path / "m").logits(prompts)
    assert error(ours, [minimax(tensors, keys, torch.tensor(ids)) for ids in prompts]) <= TOLERANCE
    if rotary_dim == 6:
        ids = continued_prompt(101, rotary_dim)
        check_decoded(load_model(tmp_path / "m"), ids, minimax(tensors, keys, torch.tensor(ids))[-DECODED:])
    save_model(load_model(tmp_path / "m"), tmp_path / "again")
    assert same_tensors(tmp_path / "m" / "model.safetensors", tmp_path / "again" / "model.safetensors")


def test_decoded_tokens_of_minimax_have_the_logits_of_transformers(tmp_path):
    """transformers decodes rightly where it is told the positions."""
    oracle = made_by_transformers(CONFIGS[0], tmp_path / "m", 0)
    ids = continued_prompt(101)
    check_decoded(load_model(tmp_path / "m"), ids, oracle_decoded(oracle, ids))
