"""Every family of Hyla that GGUF knows, through llama.cpp's own converter and back.

    python -m bench gguf_families CONVERTER [--llama-python PYTHON]

A tiny random float32 model is saved as a folder, converted, and read again: every weight must come back, none more, and
config and logits must be the same (docs/gguf.md has the table). A file that Hyla refuses ends it with the reason. With
PYTHON, which has llama-cpp-python, llama.cpp computes the same logits from the same file, keys and values in fp32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import hyla
from bench.machine import ROOT
from bench.outcome import Outcome
from hyla.checkpoints import open_checkpoint
from hyla.checkpoints.gguf import open_file
from hyla.models.formats.registry import family_of
from hyla.models.initialize import initialize
from hyla.models.trunk import Model

RUNNER = Path(__file__).with_name("gguf_converter.py")
WORST = 2.4e-7
"""Largest difference: (w + 1) - 1 and log(exp(x)) in float32; the rest is bit-equal."""
LOGITS = 1e-5
"""Largest difference of logits over the largest logit."""
LLAMA = 1e-2
"""The same for llama.cpp, which keeps some of its tables and sums in half precision. A wrong tensor gives about 1."""
PROMPT = [(7 * number * number + 3) % 97 for number in range(90)]
IDS = {"bos_token_id", "eos_token_ids", "pad_token_id"}
"""A file says them with its tokenizer, and these have none."""


@dataclass(frozen=True)
class Case:
    """One tiny model: a family's, with some keys changed."""

    name: str
    family: str
    changes: dict = field(default_factory=dict)
    rewrite: dict = field(default_factory=dict)
    """Keys of config.json in the spelling that the converter reads."""
    lost: tuple[str, ...] = ()
    """Fields of our config that no GGUF file keeps, and which are not compared."""


ALPHAS, BETAS = ([f"{name}_{kind}" for name in ("linear_attn", "full_attn", "mlp")] for kind in ("alpha", "beta"))
MINIMAX = {
    "architectures": ["MiniMaxText01ForCausalLM"],
    "model_type": "minimax_text_01",
    **{f"layernorm_{name}_alpha": 1.5 for name in ("linear_attention", "full_attention", "mlp")},
    **{f"layernorm_{name}_beta": 1.0 for name in ("linear_attention", "full_attention", "mlp")},
}
NEMOTRON = {"mamba_num_heads": 4, "mamba_head_dim": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""Becomes its divisors: the config differs, the frequencies do not."""
EQUAL_HEADS = {"linear_value_head_dim": 14, "linear_key_head_dim": 14}
"""llama.cpp takes keys and values of linear layers for equally wide, and elsewhere the heads together for as wide as
the model: what is changed here and below is so that it computes these files."""
SECTIONS = {
    "rope_parameters": {
        **{"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        **{"mrope_section": [1, 1, 1], "mrope_interleaved": True},
    }
}
"""The axes of images must share out the frequencies there are."""
KDA = {"linear_attn_config": {"num_heads": 6, "head_dim": 14, "kda_layers": [1, 2, 3], "full_attn_layers": [4]}}
"""llama.cpp takes as many heads for both mixers."""
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
MIMO = {
    "model_type": "mimo_v2_flash_published",
    "topk_method": "noaux_tc",
    "rope_parameters": None,
    "rope_theta": 5e6,
    "swa_rope_theta": 1e4,
    "partial_rotary_factor": 0.334,
}
"""Here and below, a model_type that transformers does not know keeps it from respelling the keys."""
LING_3 = {
    "model_type": "bailing_hybrid_published",
    "architectures": ["BailingMoeV3ForCausalLM"],
    "no_kda_lora": True,
    "gated_attention_proj_granularity_type": "head_wise",
    "moe_shared_expert_intermediate_size": 40,
    "norm_topk_prob": True,
    "n_group": 3,
    "num_experts_per_tok": 2,
    "score_function": "sigmoid",
}

CASES = (
    Case("llama", "llama"),
    Case("llama-llama3-scaling", "llama", {"rope_scaling": LLAMA3}, lost=("sublayers",)),
    Case("llama-biases-tied", "llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    Case("qwen2", "qwen2", {"head_dim": 8}),
    Case("qwen2-yarn", "qwen2", {"head_dim": 8, "rope_scaling": YARN}),
    Case("qwen3", "qwen3"),
    Case("qwen3moe", "qwen3_moe", {"mlp_only_layers": []}),
    Case("qwen3next", "qwen3_next", EQUAL_HEADS),
    Case("qwen3next-unlike-heads", "qwen3_next"),
    Case("qwen35", "qwen3_5_text", EQUAL_HEADS, rewrite=SECTIONS),
    Case("qwen35-no-mtp", "qwen3_5_text", {"mtp_num_hidden_layers": 0}),
    Case("qwen35moe", "qwen3_5_moe_text", EQUAL_HEADS, rewrite=SECTIONS),
    Case("kimi-linear", "kimi_linear", KDA, rewrite={"model_type": "kimi_published", "n_group": 3}),
    Case(
        "minimax-01",
        "minimax",
        {
            **{f"{name}_factor": 1.5 for name in ALPHAS},
            **{f"{name}_factor": 1.0 for name in BETAS},
            **{"num_hidden_layers": 8, "attn_type_list": [0] * 7 + [1]},  # llama.cpp takes every eighth layer for full
        },
        rewrite=MINIMAX,
    ),
    Case("minimax-m2", "minimax_m2"),
    Case("nemotron_h_moe", "nemotron_h", {**NEMOTRON, "hybrid_override_pattern": "ME*EME"}, lost=("max_len",)),
    Case(
        "nemotron_h",
        "nemotron_h",
        {**NEMOTRON, "hybrid_override_pattern": "M-*-M-", "num_nextn_predict_layers": 0},
        rewrite={"n_routed_experts": None},
        lost=("max_len",),
    ),
    Case("deepseek2", "deepseek_v3", {"num_nextn_predict_layers": 0}),
    Case("deepseek32", "deepseek_v32", {"index_head_dim": 64}),
    Case("mimo2", "mimo_v2_flash", rewrite=MIMO),
    Case("bailingmoe2", "bailing_moe_v2", {"head_dim": 12, "partial_rotary_factor": 0.5}),
    Case("bailingmoe3", "bailing_hybrid_3", rewrite=LING_3),
)


def build(case: Case, folder: Path) -> Model:
    """The model, drawn so that no two tensors or rows are alike, and its folder."""
    family = family_of(case.family)
    model = initialize(Model(family.config_from_hf({**family.tiny_config, **case.changes})), 5, std=0.2)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    hyla.save(model, folder)
    if case.rewrite:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | case.rewrite))
    return model


def convert(converter: Path, places: list[Path]) -> str:
    """By llama.cpp's code, in a process of its own; what it said. places: folder, file, folder, file, ..."""
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(converter), *map(str, places)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the converter failed:\n{done.stderr[-3000:]}")
    return done.stderr


def compare(case: Case, model: Model, file: Path) -> dict:
    """What came back."""
    config = open_checkpoint(file).config().config
    differ = [key for key in type(config).model_fields if getattr(config, key) != getattr(model.config, key)]
    with open_checkpoint(file).tensors() as stored:
        num_tensors = len(list(stored))
    loaded = hyla.load(file)
    expected, found = dict(model.named_parameters()), dict(loaded.named_parameters())
    with torch.inference_mode():
        ours, theirs = model.logits([PROMPT])[0], loaded.logits([PROMPT])[0]
    worst = {
        name: float((expected[name] - found[name]).detach().abs().max())
        for name in expected
        if name in found and not torch.equal(expected[name], found[name])
    }
    return {
        "case": case.name,
        "tensors": num_tensors,
        "parameters": len(found),
        "not_bit_equal": len(worst),
        "worst": max(worst.values(), default=0.0),
        "logits": float((ours - theirs).abs().max() / ours.abs().max()),
        "missing": sorted(expected.keys() ^ found.keys())[:5],
        "wrong": sorted(name for name in worst if worst[name] > WORST)[:8],
        "other_config": sorted(set(differ) - set(case.lost) - IDS),
    }


def llama_logits(python: str, file: Path, scratch: Path) -> torch.Tensor | str:
    """llama.cpp's logits after each token of PROMPT, or why there are none."""
    command = [str(Path(python).absolute()), "-m", "bench.decode_worker", "llama", str(file)]
    command += ["--kv", "f32", "--flash", "off", "--length", "256", "--threads", "1"]
    rows = scratch / "llama.npy"
    request = json.dumps({"pieces": [[token] for token in PROMPT], "logits": str(rows)}) + "\n"
    done = subprocess.run(command, input=request, capture_output=True, text=True, cwd=ROOT, timeout=120)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return said[-1][-200:] if said else f"it ended with {done.returncode}"
    return torch.from_numpy(np.load(rows))


def beside_llama(python: str, model: Model, file: Path, scratch: Path) -> dict:
    """The largest difference over the largest logit, and the share of rows with the same choice."""
    theirs = llama_logits(python, file, scratch)
    if isinstance(theirs, str):
        return {"llama_refuses": theirs}
    with torch.inference_mode():
        ours = model.logits([PROMPT])[0]
    same = (ours.argmax(1) == theirs.argmax(1)).float().mean()
    return {"llama": float((ours - theirs).abs().max() / ours.abs().max()), "llama_same_choice": float(same)}


def write_header(case: Case, file: Path, target: Path) -> None:
    """Keys and tensors of a file without their numbers, and of which model it is."""
    found = open_file(file)
    keys = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in found.metadata.items()}
    keys = {key: value.decode() if isinstance(value, bytes) else value for key, value in keys.items()}
    said = {
        "family": case.family,
        "changes": case.changes,
        "lost": case.lost,
        "keys": {key: value for key, value in keys.items() if not key.startswith(("general.", "tokenizer."))},
        "tensors": {name: info.shape for name, info in found.tensors.items()},
    }
    said["keys"]["general.architecture"] = keys["general.architecture"]
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in said.items()]
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def is_good(found: dict) -> bool:
    """Whether the folder came back."""
    lists = ("missing", "wrong", "other_config")
    is_near = found.get("llama", 0.0) <= LLAMA
    return is_near and found["worst"] <= WORST and found["logits"] <= LOGITS and not any(found[key] for key in lists)


def table(results: list[dict]) -> str:
    """Markdown."""
    lines = [
        "| file | tensors | largest difference of a weight | of logits, of the largest | llama.cpp's (same choice) |",
        "|---|---|---|---|---|",
    ]
    for found in results:
        cells = [found["case"], found["tensors"], f"{found['worst']:.1g}", f"{found['logits']:.1g}"]
        if "llama" in found:
            cells.append(f"{found['llama']:.1g} ({found['llama_same_choice']:.0%})")
        else:
            cells.append(found.get("llama_refuses", ""))
        lines.append("| " + " | ".join("0" if cell == "0" else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("converter", type=Path, help="a folder of llama.cpp, with convert_hf_to_gguf.py")
    parser.add_argument("--llama-python", help="the interpreter that has llama_cpp")
    parser.add_argument("--only", help="one of the cases")
    parser.add_argument("--keep", type=Path, help="keep folders and files there")
    parser.add_argument(
        "--headers", type=Path, help="write what each file says of itself there, as JSON, for the tests"
    )


def run(options: argparse.Namespace) -> Outcome:
    cases = [case for case in CASES if options.only in (None, case.name)]
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        places = {case.name: (root / case.name, root / f"{case.name}.gguf") for case in cases}
        models = {case.name: build(case, places[case.name][0]) for case in cases}
        said = convert(options.converter, [place for pair in places.values() for place in pair])
        results = []
        for case in cases:
            file = places[case.name][1]
            if not file.exists():
                raise SystemExit(f"the converter wrote no {file.name}:\n{said[-3000:]}")
            results.append(compare(case, models[case.name], file))
            if options.llama_python is not None:
                results[-1] |= beside_llama(options.llama_python, models[case.name], file, Path(scratch))
            if options.headers is not None:
                write_header(case, file, options.headers / f"{case.name}.json")
    print(table(results))
    return Outcome(results, passed=all(map(is_good, results)))
