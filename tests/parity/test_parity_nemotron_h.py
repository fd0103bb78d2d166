"""Nemotron-H against transformers.

transformers 5.23 gives its chunked form the limits (time_step_min, inf) for dt and its decoding none. The published
code, vLLM and SGLang use `time_step_limit` = (0, inf) everywhere, and so do we: the oracle is set right here.
"""

import pytest
import torch
from parity_oracle import check_decoding, check_parity, check_way_back
from safetensors.torch import load_file

from hyla.models.formats.registry import family_of
from hyla.models.trunk import Model

FIRST = {
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "hidden_size": 40,
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention", "moe"],
    "intermediate_size": 72,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 14,
    "mamba_num_heads": 6,
    "mamba_head_dim": 10,
    "n_groups": 2,
    "ssm_state_size": 18,
    "n_routed_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 22,
    "moe_shared_expert_intermediate_size": 26,
    "routed_scaling_factor": 2.5,
}
LATENT = {
    **FIRST,
    "hidden_size": 52,
    "layers_block_type": ["linear_attention", "moe", "linear_attention", "full_attention", "moe"],
    "moe_latent_size": 24,
    "n_routed_experts": 12,
    "n_group": 4,
    "topk_group": 2,
    "n_groups": 1,
    "mamba_num_heads": 5,
    "conv_kernel": 3,
    "chunk_size": 32,
    "time_step_min": 0.3,  # for the start of training only: must change nothing
    "layer_norm_epsilon": 1e-6,
}
GROUP_PER_HEAD = {
    **FIRST,
    "layers_block_type": ["full_attention", "linear_attention", "mlp", "linear_attention"],
    "n_groups": 3,
    "mamba_num_heads": 3,
    "mamba_head_dim": 22,
    "norm_topk_prob": False,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def published_time_step_limit(monkeypatch):
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer

    start = NemotronHMamba2Mixer.__init__

    def unlimited(self, *arguments, **keywords):
        start(self, *arguments, **keywords)
        self.time_step_limit = (0.0, float("inf"))

    monkeypatch.setattr(NemotronHMamba2Mixer, "__init__", unlimited)


@pytest.mark.parametrize("number, keys", list(enumerate([FIRST, LATENT, GROUP_PER_HEAD])))
def test_nemotron_h_gives_the_logits_of_transformers_and_its_tensors_back(tmp_path, number, keys):
    from transformers import NemotronHConfig

    check_parity(NemotronHConfig(**keys), tmp_path, seed=number)


def test_a_model_made_here_is_written_under_the_names_of_the_hub(tmp_path):
    check_way_back(Model(family_of("nemotron_h").tiny), tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert tensors["backbone.layers.0.mixer.conv1d.weight"].shape == (72 + 2 * 2 * 20, 1, 4)
    assert tensors["backbone.layers.1.mixer.fc1_latent_proj.weight"].shape == (36, 44)
    assert tensors["backbone.layers.1.mixer.experts.5.up_proj.weight"].shape == (20, 36)
    assert tensors["backbone.layers.4.mixer.D"].dtype == torch.float32
    assert {"backbone.embeddings.weight", "backbone.norm_f.weight", "lm_head.weight"} <= set(tensors)


def test_decoded_tokens_of_nemotron_h_have_the_logits_of_transformers(tmp_path):
    from transformers import NemotronHConfig

    check_decoding(NemotronHConfig(**FIRST), tmp_path)
