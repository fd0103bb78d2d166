"""A Hugging Face folder of the dense Qwen3.5 family as a GGUF file that llama.cpp reads (architecture `qwen35`).

    PYTHON_WITH_GGUF -m bench.gguf_folder FOLDER FILE [--float32]

What the file must hold was read from llama.cpp's own converter and loader (0.3.36 of llama-cpp-python): matrices stay
as published; norms that are stored around zero get their one; A_log becomes -exp(A_log); the convolution loses its
middle dimension; value heads go from "grouped by key head" to "tiled over key heads"; vectors, norms and convolutions
are fp32. The vocabulary is a number of nameless tokens. Only numpy and `gguf` are needed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ARCHITECTURE = "qwen35"
BFLOAT16_FILE, FLOAT32_FILE = 32, 0
"""general.file_type of GGUF: most matrices bf16; all tensors fp32."""

MODEL_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
}


def gguf_name(name: str) -> str:
    """Published tensor name -> GGUF's. KeyError: a tensor that this family does not have."""
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{int(layer)}.{LAYER_NAMES[rest]}"


def metadata(config: dict) -> dict[str, str | int | float | list[int]]:
    """config.json -> the keys that llama.cpp's loader reads."""
    kinds, rope = config["layer_types"], config["rope_parameters"]
    interval = kinds.index("full_attention") + 1
    if kinds != [("full" if n % interval == 0 else "linear") + "_attention" for n in range(1, len(kinds) + 1)]:
        raise ValueError(f"layer_types {kinds} are not one full attention in every {interval} layers")
    if config["linear_key_head_dim"] != config["linear_value_head_dim"]:
        raise ValueError("llama.cpp's qwen35 has one head size for keys and values of the delta rule")
    own = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": int(config["head_dim"] * rope["partial_rotary_factor"]),
        "rope.dimension_sections": [11, 11, 10, 0],  # text has one position in all of them
        "full_attention_interval": interval,
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": config["linear_num_value_heads"],
        "ssm.inner_size": config["linear_num_value_heads"] * config["linear_value_head_dim"],
    }
    return {"tokenizer.ggml.model": "none", **{f"{ARCHITECTURE}.{key}": value for key, value in own.items()}}


def tiled(array: np.ndarray, num_key_heads: int, num_value_heads: int, axis: int = 0) -> np.ndarray:
    """Value heads along `axis`: from g0v0 g0v1 .. g1v0 g1v1 .. (g: key head) to g0v0 g1v0 .. g0v1 g1v1 .."""
    order = np.arange(num_value_heads).reshape(num_key_heads, -1).T.reshape(-1)
    width = array.shape[axis] // num_value_heads
    return array.take((order[:, None] * width + np.arange(width)).reshape(-1), axis)


def in_llama_order(name: str, array: np.ndarray, config: dict) -> np.ndarray:
    """The tensor with its value heads tiled; every other dimension as published."""
    heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    kind = name.partition("linear_attn.")[2].partition(".")[0]
    if kind in ("in_proj_qkv", "conv1d"):  # the queries' and keys' channels come first
        first = 2 * heads[0] * config["linear_key_head_dim"]
        return np.concatenate([array[:first], tiled(array[first:], *heads)])
    if kind == "out_proj":
        return tiled(array, *heads, axis=1)
    if kind in ("in_proj_z", "in_proj_a", "in_proj_b", "A_log", "dt_bias"):
        return tiled(array, *heads)
    return array


def as_float32(array: np.ndarray) -> np.ndarray:
    """bf16 bits (uint16) or fp32 -> fp32."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def converted(name: str, array: np.ndarray, config: dict) -> np.ndarray:
    """The tensor as llama.cpp wants it: fp32, or bf16 bits (uint16) for matrices."""
    array = in_llama_order(name, array, config)
    if name.endswith("A_log"):
        return -np.exp(as_float32(array))
    if name.endswith("conv1d.weight"):
        return as_float32(array)[:, 0]
    if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        return as_float32(array) + 1  # stored around zero
    return as_float32(array) if array.ndim == 1 else array


def read_tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and tensors (bf16 as uint16) of the folder's safetensors files."""
    for file in sorted(folder.glob("*.safetensors")):
        raw = np.memmap(file, dtype=np.uint8, mode="r")
        start = 8 + int(raw[:8].view("<u8")[0])
        header = json.loads(bytes(raw[8:start]))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            dtype = {"BF16": np.uint16, "F32": np.float32}[entry["dtype"]]
            yield name, raw[start + first : start + last].view(dtype).reshape(entry["shape"])


def write_gguf(folder: Path, file: Path, float32: bool = False) -> None:
    """float32: matrices widened to fp32 as well, to compare arithmetic apart from rounding."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    writer.add_file_type(FLOAT32_FILE if float32 else BFLOAT16_FILE)
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    for key, value in metadata(config).items():
        add[type(value)](key, value)
    for name, array in read_tensors(folder):
        array = np.ascontiguousarray(converted(name, array, config))
        if float32:
            array = as_float32(array)
        kind = gguf.GGMLQuantizationType.BF16 if array.dtype == np.uint16 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--float32", action="store_true", help="widen the matrices to fp32")
    args = parser.parse_args()
    write_gguf(args.folder, args.file, args.float32)


if __name__ == "__main__":
    main()
