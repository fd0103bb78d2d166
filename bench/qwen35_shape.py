"""Decode and prefill of one random Qwen3.5-shaped dense hybrid, beside transformers on the same folder.

Hidden 1024, 24 layers 3:1, MLP 3584, gated delta 16 heads of 128, attention 8 query and 2 key heads of 256,
vocabulary 32,768, tied: 0.53 B parameters. Every part runs in a process of its own, one after the other.

    python bench/qwen35_shape.py [--dtypes bfloat16 float32] [--folder FOLDER]

Targets: decode at batch 1 >= 70% of (weight bytes / measured memory bandwidth); prefill of 512 tokens >= 1.5x
transformers; decode at batch 16 >= 3x transformers at batch 16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT, STEPS, VOCABULARY = 512, 32, 32768


def write_folder(folder: str) -> None:
    """Random bf16 weights in the published format."""
    import torch

    import hyla
    from hyla.models.config import (
        GatedDeltaConfig,
        MLPConfig,
        ModelConfig,
        NormConfig,
        RopeConfig,
        SoftmaxConfig,
        SublayerConfig,
    )
    from hyla.models.initialize import initialize
    from hyla.models.trunk import Model

    norm = NormConfig(eps=1e-6, zero_centered=True)
    delta = GatedDeltaConfig(num_key_heads=16, num_value_heads=16, key_dim=128, value_dim=128)
    full = SoftmaxConfig(
        num_heads=8,
        num_kv_heads=2,
        head_dim=256,
        qk_norm=norm,
        rope=RopeConfig(rotary_dim=64, theta=1e7),
        output_gate=True,
    )
    sublayers = []
    for layer in range(24):
        sublayers.append(SublayerConfig(norm=norm, module=full if layer % 4 == 3 else delta))
        sublayers.append(SublayerConfig(norm=norm, module=MLPConfig(intermediate_dim=3584)))
    config = ModelConfig(
        family="qwen3_5_text",
        vocab_size=VOCABULARY,
        hidden_dim=1024,
        sublayers=tuple(sublayers),
        final_norm=norm,
        tie_embeddings=True,
        max_len=65536,
    )
    model = initialize(Model(config), 0)
    for name, parameter in model.named_parameters():
        if not name.endswith(("A_log", "dt_bias")):
            parameter.data = parameter.data.to(torch.bfloat16)
    hyla.save(model, folder)


def bandwidth() -> float:
    """Bytes per second of reading 1 GiB with all threads: the best of several passes."""
    import torch

    data = torch.ones(1 << 28)
    rates = []
    for _ in range(8):
        start = time.perf_counter()
        data.sum()
        rates.append(data.nbytes / (time.perf_counter() - start))
    return max(rates[2:])


def prompts(count: int, length: int) -> list[list[int]]:
    return [[(7 * i + 13 * n) % VOCABULARY for i in range(length)] for n in range(count)]


def run_hyla(folder: str, dtype: str) -> dict:
    """Seconds of prefill, and of a decode step at batch 1 and 16 (model and head, greedy)."""
    import torch

    import hyla
    from hyla.caches import Cache
    from hyla.ops.host_memory import keep_freed_memory

    keep_freed_memory()
    model = hyla.load(folder, dtype=getattr(torch, dtype)).eval().pack()
    head_bytes = model.config.vocab_size * model.config.hidden_dim * 4
    weight_bytes = sum(p.numel() * p.dtype.itemsize for n, p in model.named_parameters() if n != "embed.weight")
    weight_bytes += head_bytes
    cache = Cache(model.cache_specs(), num_pages=17 * 12, num_slots=18)

    @torch.inference_mode()
    def forward(sequences, rows: list[list[int]]) -> list[int]:
        batch = cache.batch([(sequence, len(row)) for sequence, row in zip(sequences, rows)])
        hidden = model(torch.tensor([token for row in rows for token in row]), batch, cache.layers)
        picked = model.head_logits(hidden[batch.last_rows_N]).argmax(-1).tolist()
        for sequence, row in zip(sequences, rows):
            cache.commit(sequence, len(row))
        return picked

    prefill = []
    for _ in range(5):
        sequence = cache.open()
        start = time.perf_counter()
        forward([sequence], prompts(1, PROMPT))
        prefill.append(time.perf_counter() - start)
        cache.close(sequence)
    result = {"prefill_seconds": statistics.median(prefill[1:]), "weight_bytes": weight_bytes}
    for count in (1, 16):
        sequences = [cache.open() for _ in range(count)]
        for sequence, prompt in zip(sequences, prompts(count, PROMPT)):
            forward([sequence], [prompt])
        tokens, seconds = [[1]] * count, []
        for _ in range(STEPS):
            start = time.perf_counter()
            tokens = [[token] for token in forward(sequences, tokens)]
            seconds.append(time.perf_counter() - start)
        result[f"decode_{count}_seconds"] = statistics.median(seconds[2:])
        for sequence in sequences:
            cache.close(sequence)
    return result


def run_transformers(folder: str, dtype: str) -> dict:
    """The same for transformers, eager, on the same folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from hyla.ops.host_memory import keep_freed_memory

    keep_freed_memory()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        prefill = []
        for _ in range(4):
            start = time.perf_counter()
            model(torch.tensor(prompts(1, PROMPT)), use_cache=True, logits_to_keep=1)
            prefill.append(time.perf_counter() - start)
        result = {"prefill_seconds": statistics.median(prefill[1:])}
        for count in (1, 16):
            past = model(torch.tensor(prompts(count, PROMPT)), use_cache=True, logits_to_keep=1).past_key_values
            tokens, seconds = torch.ones(count, 1, dtype=torch.int64), []
            for _ in range(STEPS // 2):
                start = time.perf_counter()
                out = model(tokens, past_key_values=past, use_cache=True)
                tokens = out.logits[:, -1:].argmax(-1)
                seconds.append(time.perf_counter() - start)
            result[f"decode_{count}_seconds"] = statistics.median(seconds[2:])
    return result


def part(name: str, folder: str, dtype: str) -> dict:
    command = [sys.executable, __file__, "--part", name, "--folder", folder, "--dtypes", dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(folder: str, dtype: str) -> dict:
    rate = part("bandwidth", folder, dtype)
    ours, theirs = part("hyla", folder, dtype), part("transformers", folder, dtype)
    floor = ours["weight_bytes"] / rate
    row = {
        "dtype": dtype,
        "bandwidth_gb_s": round(rate / 1e9, 1),
        "weight_gb": round(ours["weight_bytes"] / 1e9, 3),
        "decode_1_tokens_s": round(1 / ours["decode_1_seconds"], 1),
        "decode_1_share_of_bandwidth": round(floor / ours["decode_1_seconds"], 2),
        "decode_1_vs_transformers": round(theirs["decode_1_seconds"] / ours["decode_1_seconds"], 2),
        "prefill_512_tokens_s": round(PROMPT / ours["prefill_seconds"]),
        "prefill_512_vs_transformers": round(theirs["prefill_seconds"] / ours["prefill_seconds"], 2),
        "decode_16_tokens_s": round(16 / ours["decode_16_seconds"], 1),
        "decode_16_vs_transformers": round(theirs["decode_16_seconds"] / ours["decode_16_seconds"], 2),
    }
    for name, value in row.items():
        print(f"{name:32} {value}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--folder", help="where the model is, or is written; default: a temporary folder")
    parser.add_argument("--part", choices=["bandwidth", "hyla", "transformers"], help="one measurement, as JSON")
    args = parser.parse_args()
    if args.part == "bandwidth":
        print(json.dumps(bandwidth()))
    elif args.part:
        run = run_hyla if args.part == "hyla" else run_transformers
        print(json.dumps(run(args.folder, args.dtypes[0])))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.folder or str(Path(temporary) / "model")
            if not Path(folder).exists():
                write_folder(folder)
            print(json.dumps([compare(folder, dtype) for dtype in args.dtypes]))


if __name__ == "__main__":
    main()
