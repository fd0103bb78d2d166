"""Small hybrids of four mixers, in formats that transformers reads, too."""

from __future__ import annotations

from pathlib import Path

VOCABULARY = 4096
"""A small vocabulary, as small models have: the head is not most of the work."""


def _sizes(size: str) -> tuple[int, int]:
    """Width and layers."""
    return {"5m": (256, 4), "50m": (640, 8)}[size]


def _kda(size: str) -> tuple[str, dict]:
    width, layers = _sizes(size)
    heads = width // 64
    full = [layer for layer in range(1, layers + 1) if layer % 4 == 0]
    linear = [layer for layer in range(1, layers + 1) if layer % 4]
    return "kimi_linear", {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "kv_lora_rank": width // 4,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 64,
        "linear_attn_config": {"num_heads": heads, "head_dim": 64, "kda_layers": linear, "full_attn_layers": full},
        "first_k_dense_replace": layers,
        "model_max_length": 8192,
    }


def _gated_delta(size: str) -> tuple[str, dict]:
    width, layers = _sizes(size)
    heads = width // 64
    return "qwen3_next", {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 64,
        "partial_rotary_factor": 0.25,
        "linear_num_key_heads": heads,
        "linear_num_value_heads": heads,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "num_experts": 0,
        "mlp_only_layers": list(range(layers)),
        "num_nextn_predict_layers": 0,
        "max_position_embeddings": 8192,
    }


def _lightning(size: str) -> tuple[str, dict]:
    width, layers = _sizes(size)
    heads = width // 64
    kinds = ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(layers)]
    return "minimax", {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 64,
        "layer_types": kinds,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "max_position_embeddings": 8192,
    }


def _mamba2(size: str) -> tuple[str, dict]:
    width, layers = _sizes(size)
    heads = width // 64
    pattern = "".join("*-" if layer % 4 == 3 else "M-" for layer in range(layers))
    return "nemotron_h", {
        "hidden_size": width,
        "hybrid_override_pattern": pattern,
        "intermediate_size": 3 * width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 64,
        "mamba_num_heads": 2 * heads,
        "mamba_head_dim": 64,
        "n_groups": 2,
        "ssm_state_size": 64,
        "max_position_embeddings": 8192,
        "num_nextn_predict_layers": 0,
    }


MIXERS = {"kda": _kda, "gated_delta": _gated_delta, "lightning": _lightning, "mamba2": _mamba2}
SIZES = ("5m", "50m")


def write_model(mixer: str, size: str, folder: Path) -> Path:
    """A model of random weights, written once."""
    import torch

    from hyla.checkpoints import save_model
    from hyla.models.formats.registry import family_of
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    place = folder / f"{mixer}-{size}"
    if not (place / "config.json").exists():
        name, keys = MIXERS[mixer](size)
        family = family_of(name)
        tiny = {key: value for key, value in family.tiny_config.items() if key not in DROPPED}
        config = family.config_from_hf({**tiny, **keys, "vocab_size": VOCABULARY, "eos_token_id": 1})
        with torch.no_grad():
            save_model(initialize(Model(config), 1), place)
    return place


DROPPED = frozenset(
    {
        "mtp_hybrid_override_pattern",
        "moe_latent_size",
        "n_routed_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "bos_token_id",
    }
)
"""Keys of the tiny configs that say nothing about these models."""
