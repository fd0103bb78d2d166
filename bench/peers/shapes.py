"""Random models of about half a billion parameters in the shapes of published hybrids, and a full-attention twin."""

from __future__ import annotations

from pathlib import Path

# fmt: off
COMMON = {
    "vocab_size": 32768, "hidden_size": 1024, "num_hidden_layers": 12, "max_position_embeddings": 8192,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
}
SHAPES = {
    "Ring-linear": ("bailing_moe_linear", {
        **COMMON, "intermediate_size": 2560, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128,
        "partial_rotary_factor": 0.5, "layer_group_size": 4, "group_norm_size": 4, "num_experts": 32,
        "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "num_shared_experts": 1, "moe_intermediate_size": 256,
        "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
    }),
    "Kimi": ("kimi_linear", {
        **COMMON, "model_max_length": 8192, "intermediate_size": 2560, "num_attention_heads": 8,
        "num_key_value_heads": 8, "kv_lora_rank": 256, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "linear_attn_config": {
            "num_heads": 8, "head_dim": 128, "short_conv_kernel_size": 4,
            "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11], "full_attn_layers": [4, 8, 12],
        },
        "num_experts": 32, "num_experts_per_token": 4, "num_shared_experts": 1, "moe_intermediate_size": 256,
    }),
    "Nemotron": ("nemotron_h", {
        **COMMON, "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEME", "num_hidden_layers": 25,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 32,
        "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128, "n_routed_experts": 32, "num_experts_per_tok": 4,
        "moe_intermediate_size": 512, "moe_shared_expert_intermediate_size": 1024, "routed_scaling_factor": 2.5,
    }),
    "Qwen3-Next-MoE": ("qwen3_next", {
        **COMMON, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "linear_num_key_heads": 8,
        "linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "num_experts": 32,
        "num_experts_per_tok": 4, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
        "num_nextn_predict_layers": 0,
    }),
}
# fmt: on
TWIN_MLP = 4368
"""Of the twin: what 18 gated delta layers have more than attention layers goes to its 24 MLPs (0.1% apart)."""


def write_hybrid(folder: Path) -> None:
    """The model of most rows. Imported here, since workers without PyTorch read this module too."""
    from bench.qwen35_folder import write_folder

    write_folder(folder)


def write_twin(folder: Path) -> None:
    """The hybrid with attention in every layer, as many parameters."""
    from bench import qwen35_folder

    layers = ["full_attention"] * qwen35_folder.LAYERS
    keys = qwen35_folder.CONFIG | {"layer_types": layers, "intermediate_size": TWIN_MLP}
    _write("qwen3_5_text", keys, folder)


def write_shape(name: str, folder: Path) -> None:
    _write(*SHAPES[name], folder)


def _write(model_type: str, keys: dict, folder: Path) -> None:
    import hyla
    from hyla.models.formats.registry import family_of
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    config = family_of(model_type).config_from_hf({"model_type": model_type, **keys})
    hyla.save(initialize(Model(config), 0).bfloat16(), folder)
