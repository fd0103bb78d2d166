"""A tiny llama as a GGUF file: random weights and a byte-level vocabulary with a few merges, as converters write it."""

from __future__ import annotations

import numpy as np
from gguf_writing import BF16, F32, GGUF, I32, Stored, Typed
from tokenizers import pre_tokenizers

from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.state import NamedWeights
from hyla.models.trunk import Model

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
}
MERGES = ["Ġ t", "h e", "Ġt he", "i n", "Ġ c", "o f", "Ġc at", "a t", "1 2"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*SPECIAL[:3], *BYTES, *dict.fromkeys(merge.replace(" ", "") for merge in MERGES), SPECIAL[3]]
"""Control tokens first, as in SmolLM2, and a user-defined one last."""
TYPES = [3] * 3 + [1] * (len(TOKENS) - 4) + [4]
VOCABULARY = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": Typed(I32, TYPES),
    "tokenizer.ggml.merges": [merge for merge in MERGES],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
}
CONFIG = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e5,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": [2, 0],
}


def tiny_model(**changes) -> Model:
    """The model that the file holds."""
    return initialize(Model(family_of("llama").config_from_hf({**CONFIG, **changes})), 3, std=0.2)


def published(model: Model) -> dict[str, np.ndarray]:
    """The model's published tensors."""
    weights = NamedWeights(model)
    found = {}
    for rule in family_of(model.config.family).rules(model.config, weights.shapes):
        tensors = rule.to_published([weights.read(name) for name in rule.ours])
        found |= {name: tensor.detach().float().numpy() for name, tensor in zip(rule.published, tensors)}
    return found


def in_pairs(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to rows of q and k: halves become neighbours."""
    halves = rows.reshape(num_heads, 2, len(rows) // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def gguf_name(name: str) -> str:
    """Published name -> GGUF's."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{IN_BLOCK[stem]}.{kind}"


def stored_tensors(model: Model) -> dict[str, np.ndarray]:
    """The tensors of the file."""
    mixer = model.config.mixers[0]
    heads = {"q_proj": mixer.num_heads, "k_proj": mixer.num_kv_heads}
    found = {}
    for name, array in published(model).items():
        count = next((count for part, count in heads.items() if part in name), None)
        found[gguf_name(name)] = array if count is None else in_pairs(array, count)
    return found


def as_bfloat16(array: np.ndarray) -> bytes:
    """Rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def tiny_gguf(model: Model | None = None, *, matrices: int = F32) -> GGUF:
    """A whole file. matrices: F32, or BF16 for what is no vector."""
    model = model or tiny_model()
    tensors = []
    for name, array in stored_tensors(model).items():
        if array.ndim > 1 and matrices == BF16:
            tensors.append(Stored(name, array.shape, BF16, as_bfloat16(array)))
        else:
            tensors.append(Stored.plain(name, array))
    return GGUF({**metadata(model), **VOCABULARY}, tensors)


def metadata(model: Model) -> dict:
    """Keys of the architecture."""
    mixer, config = model.config.mixers[0], model.config
    return {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": len(config.mixers),
        "llama.context_length": config.max_len,
        "llama.embedding_length": config.hidden_dim,
        "llama.feed_forward_length": config.sublayers[1].module.intermediate_dim,
        "llama.attention.head_count": mixer.num_heads,
        "llama.attention.head_count_kv": mixer.num_kv_heads,
        "llama.attention.key_length": mixer.head_dim,
        "llama.attention.value_length": mixer.head_dim,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1e5,
        "llama.rope.dimension_count": mixer.head_dim,
        "llama.vocab_size": config.vocab_size,
    }
