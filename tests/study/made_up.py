"""Ledgers that nobody computed: result files with the figures that a test wants."""

import json

SIZE = {"hidden_dim": 48, "num_layers": 4, "num_heads": 3, "head_dim": 16, "mlp_dim": 128}
LAYERS = {
    "full": ["softmax"] * 4,
    "3:1": ["kda", "kda", "kda", "softmax"],
    "1:1": ["kda", "softmax"] * 2,
    "0:1": ["kda"] * 4,
}


def language_file(arm="3:1", *, budget=1e12, rate=0.003, seed=0, bits=2.0, **figures):
    """The object of a language run's file."""
    changes = figures.pop("changes", {})
    run = {
        "kind": "language",
        "version": 1,
        "arm": arm,
        "layers": LAYERS.get(arm, LAYERS["3:1"]),
        "changes": changes,
        "size": SIZE,
        "budget": budget,
        "rate": rate,
        "seed": seed,
        "data": "d1ge57",
        "batch_tokens": 4096,
    }
    found = {
        "flops": budget * 1.002,
        "steps": 250,
        "tokens": 1_024_000,
        "parameters": 400_000,
        "validation_bits": bits,
        "test_bits": bits + 0.01,
        "bits_by_position": {"0": bits + 0.8, "64": bits + 0.1, "128": bits},
        "tasks": {"recall": 0.95, "variables": 0.4, "needle": 1.0, "turns": 0.35},
        "curve": [[50, 204_800, 2.4], [250, 1_024_000, 1.4]],
        "seconds": 81.0,
        "evaluation_seconds": 2.0,
        "machine": "a made-up machine",
        "cache_bytes": {"1024": 400_000, "65536": 9_000_000},
    }
    return {"run": run, **found, **figures}


def decode_file(arm="3:1", *, ms=2.0, cache=1_000_000, changes=None):
    """The object of a decode run's file."""
    run = {
        "kind": "decode",
        "version": 1,
        "arm": arm,
        "layers": LAYERS.get(arm, LAYERS["3:1"]),
        "changes": changes or {},
        "size": SIZE,
    }
    return {
        "run": run,
        "ms_per_token": {"1024": ms, "16384": ms * 2},
        "cache_bytes": {"1024": cache, "65536": 8 * cache},
    }


def write(folder, name, found):
    """A result file, whatever it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(found if isinstance(found, str) else json.dumps(found))
    return file
