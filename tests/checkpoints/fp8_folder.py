"""A folder of a tiny model, written as publishers write FP8 checkpoints."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hyla.checkpoints import save_model
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import cast
from hyla.models.trunk import Model
from hyla.ops.weights import quantise

# Sizes that are no multiples of 128, in matrices of several blocks, and fused ones whose parts split inside a block.
SIZES = {
    "kimi_linear": {
        "hidden_size": 200,
        "intermediate_size": 264,
        "moe_intermediate_size": 136,
        "kv_lora_rank": 140,
        "linear_attn_config": {"num_heads": 5, "head_dim": 32, "kda_layers": [1, 2, 3], "full_attn_layers": [4]},
    },
    "qwen3_next": {"hidden_size": 200, "moe_intermediate_size": 136, "head_dim": 128, "linear_value_head_dim": 44},
    "qwen3": {"hidden_size": 200, "intermediate_size": 264},
    "mimo_v2": {"hidden_size": 200, "head_dim": 44},
}
SHARDS = {"mimo_v2": 2}
"""Tensor-parallel shards of its qkv matrices, each cut into blocks on its own."""
PLAIN = (
    r"embed|lm_head|norm|\.gate\.weight|conv|shared_expert_gate|in_proj_ba|A_log|dt_bias|self_attn\.b_proj|weights_proj"
)
QUANTIZATION = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head", "gate"],
}


def make_fp8_folder(
    folder: Path, name: str, dtype=torch.bfloat16, scale_dtype=torch.float32, plain=PLAIN, sizes=None
) -> Path:
    """Save a random model of a family and quantise its matrices in place."""
    family = family_of(name)
    config = family.config_from_hf({**family.tiny_config, **(sizes or SIZES.get(name, {"hidden_size": 200}))})
    save_model(cast(initialize(Model(config), 3, std=0.1), dtype), folder)
    file, tensors = folder / "model.safetensors", {}
    for key, tensor in load_file(file).items():
        if tensor.dim() != 2 or re.search(plain, key):
            tensors[key] = tensor
            continue
        shards = tensor.chunk(SHARDS.get(name, 1) if "qkv_proj" in key else 1)
        pairs = [quantise(shard, power_of_two=scale_dtype != torch.float32) for shard in shards]
        codes = torch.cat([part.view(torch.uint8) for part, _ in pairs]).view(torch.float8_e4m3fn)
        scale = torch.cat([part for _, part in pairs])
        tensors |= {key: codes, key + "_scale_inv": scale.to(scale_dtype)}
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    config_file = folder / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "quantization_config": QUANTIZATION}))
    return folder
