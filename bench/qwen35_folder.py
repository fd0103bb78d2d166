"""A random Qwen3.5-shaped dense hybrid in the published format: the model of most benchmarks, written without Hyla.

Hidden 1024, 24 layers 3:1, MLP 3584, gated delta 16 heads of 128, attention 8 query and 2 key heads of 256,
vocabulary 32,768, tied: 0.53 B parameters in bf16.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

VOCABULARY, HIDDEN, LAYERS, MLP = 32768, 1024, 24, 3584
DELTA_HEADS, DELTA_DIM, CONV_LEN = 16, 128, 4
HEADS, KEY_HEADS, HEAD_DIM = 8, 2, 256
STD = 0.02

CONFIG = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 65536,
    "tie_word_embeddings": True,
    "initializer_range": STD,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "hidden_act": "silu",
    "layer_types": ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(LAYERS)],
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": HEAD_DIM,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    "rope_theta": 1e7,
    "partial_rotary_factor": 0.25,
    "linear_num_key_heads": DELTA_HEADS,
    "linear_num_value_heads": DELTA_HEADS,
    "linear_key_head_dim": DELTA_DIM,
    "linear_value_head_dim": DELTA_DIM,
    "linear_conv_kernel_dim": CONV_LEN,
    "intermediate_size": MLP,
    "mtp_num_hidden_layers": 0,
    "dtype": "bfloat16",
}


def tensors() -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the format: matrices Normal(0, STD), norms as if untrained, decays between slow and fast."""
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * STD).bfloat16()

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.empty(*shape).uniform_(low, high, generator=generator)

    def zeros(size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.bfloat16)

    width = DELTA_HEADS * DELTA_DIM
    yield "model.embed_tokens.weight", matrix(VOCABULARY, HIDDEN)
    yield "model.norm.weight", zeros(HIDDEN)
    for layer, kind in enumerate(CONFIG["layer_types"]):
        before = f"model.layers.{layer}."
        yield before + "input_layernorm.weight", zeros(HIDDEN)
        yield before + "post_attention_layernorm.weight", zeros(HIDDEN)
        yield before + "mlp.gate_proj.weight", matrix(MLP, HIDDEN)
        yield before + "mlp.up_proj.weight", matrix(MLP, HIDDEN)
        yield before + "mlp.down_proj.weight", matrix(HIDDEN, MLP)
        if kind == "full_attention":
            before += "self_attn."
            yield before + "q_proj.weight", matrix(2 * HEADS * HEAD_DIM, HIDDEN)
            yield before + "k_proj.weight", matrix(KEY_HEADS * HEAD_DIM, HIDDEN)
            yield before + "v_proj.weight", matrix(KEY_HEADS * HEAD_DIM, HIDDEN)
            yield before + "o_proj.weight", matrix(HIDDEN, HEADS * HEAD_DIM)
            yield before + "q_norm.weight", zeros(HEAD_DIM)
            yield before + "k_norm.weight", zeros(HEAD_DIM)
            continue
        before += "linear_attn."
        yield before + "in_proj_qkv.weight", matrix(3 * width, HIDDEN)
        yield before + "in_proj_z.weight", matrix(width, HIDDEN)
        yield before + "in_proj_a.weight", matrix(DELTA_HEADS, HIDDEN)
        yield before + "in_proj_b.weight", matrix(DELTA_HEADS, HIDDEN)
        yield before + "conv1d.weight", uniform(-0.5, 0.5, 3 * width, 1, CONV_LEN).bfloat16()
        yield before + "A_log", uniform(1.0, 16.0, DELTA_HEADS).log()
        dt = uniform(math.log(1e-3), math.log(1e-1), DELTA_HEADS).exp()
        yield before + "dt_bias", dt.expm1().log()
        yield before + "norm.weight", torch.ones(DELTA_DIM, dtype=torch.bfloat16)
        yield before + "out_proj.weight", matrix(HIDDEN, width)


def write_folder(folder: str | Path) -> None:
    """The same bits every time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    save_file(dict(tensors()), folder / "model.safetensors", metadata={"format": "pt"})


@contextlib.contextmanager
def model_folder(folder: str | None) -> Iterator[str]:
    """The named folder, written if it is not there; without a name one that goes away afterwards.

    BENCH_SCRATCH names a folder that outlives one of several processes (bench/revisions.py sets it).
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or Path(os.environ.get("BENCH_SCRATCH", temporary)) / "qwen35-shape")
        if not place.exists():
            write_folder(place)
        yield str(place)
